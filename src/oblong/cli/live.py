"""The live view of a comparison: one line per run, as the workers report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.markup import escape
from rich.progress import TaskID

from oblong.cli.terminal import format_seconds, progress_bar

if TYPE_CHECKING:
    from oblong.comparing.jobs import Job
    from oblong.records import Plan, Scan
    from oblong.scanning.progress import ScanProgress


ALL_RUNS: Final = "runs"


class MatrixProgress:
    """Bars on a terminal; off a terminal, one line when a run starts and one when it ends."""

    def __init__(self) -> None:
        self._bars = progress_bar()
        self._tasks: dict[str, TaskID] = {}
        self._stages: dict[str, str] = {}
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def on_scan(self, state: ScanProgress) -> None:
        """A tensor was measured."""
        task = self._task("scanning")
        self._bars.update(task, completed=state.done, total=state.total, detail=escape(state.detail))

    def on_plans(self, scan: Scan, plans: Sequence[Plan]) -> None:
        """The scan is there and every arm has its Plan."""
        if "scanning" in self._tasks:
            self._bars.update(self._tasks["scanning"], detail="")
        self._say(f"scanned {len(scan)} units of {scan.header.checkpoint.num_tensors} tensors")
        for plan in plans:
            totals = plan.totals
            reach = ", as far as its adapter reaches" if plan.rule.criterion == "adapter" else ""
            self._say(
                f"plan {plan.name}: {totals.num_tensors} tensors, {totals.num_parameters:,} parameters "
                f"({totals.share:.1%}){reach}"
            )

    def on_poll(self, jobs: Sequence[Job]) -> None:
        """Show how far each job is, and how many are done."""
        stages = [self._show(job) for job in jobs]
        self._bars.update(self._task(ALL_RUNS), completed=stages.count("done"), total=len(jobs))

    def _show(self, job: Job) -> str:
        """Update one job's line; returns its stage."""
        progress = job.read_progress()
        if progress.stage == "waiting":
            return progress.stage
        detail = escape(f"{progress.stage} {progress.detail}")
        self._bars.update(self._task(job.label), completed=progress.done, total=progress.total, detail=detail)
        if self._stages.get(job.label) != progress.stage:
            self._stages[job.label] = progress.stage
            if not self._bars.console.is_terminal:
                self._say(f"[{format_seconds(time.monotonic() - self._started)}] {job.label}: {progress.stage}")
        return progress.stage

    def _say(self, message: str) -> None:
        """One dim line above the bars."""
        self._bars.console.print(f"[dim]{escape(message)}[/dim]", soft_wrap=True)

    def _task(self, label: str) -> TaskID:
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=None, detail="")
        return self._tasks[label]
