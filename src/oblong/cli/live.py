"""The live view of a comparison: a table as the workers report, or lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Group
from rich.live import Live
from rich.markup import escape

from oblong.cli.matrix_rows import DONE, WAITING, describe_outcome, list_rows, render_rows
from oblong.cli.terminal import format_seconds, progress_bar

if TYPE_CHECKING:
    from oblong.comparing.jobs import Job, JobProgress
    from oblong.records import Plan, Scan
    from oblong.scanning.progress import ScanProgress

SCANNING: Final = "scanning"
ALL_RUNS: Final = "runs"
LEGEND: Final = "[dim]new, kept: change of loss on the new domain and elsewhere, nats per token[/dim]"


class MatrixProgress:
    """A table and a bar on a terminal; off a terminal, one line when a run starts and one when it ends."""

    def __init__(self) -> None:
        self._bars = progress_bar()
        self._tasks = {
            name: self._bars.add_task(name, total=None, detail="", visible=False) for name in (SCANNING, ALL_RUNS)
        }
        self._live = Live(self._bars, console=self._bars.console, refresh_per_second=4)
        self._stages: dict[str, str] = {}
        self._finished: dict[str, JobProgress] = {}
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if self._bars.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def on_scan(self, state: ScanProgress) -> None:
        """A tensor was measured."""
        self._advance(SCANNING, state.done, state.total, state.detail)

    def on_plans(self, scan: Scan, plans: Sequence[Plan]) -> None:
        """The scan is there and every arm has its Plan."""
        self._bars.update(self._tasks[SCANNING], visible=False)
        self._say(f"scanned {len(scan)} units of {scan.header.checkpoint.num_tensors} tensors")
        for plan in plans:
            totals = plan.totals
            reach = ", as far as its adapter reaches" if plan.rule.criterion == "adapter" else ""
            self._say(
                f"plan {plan.name}: {totals.num_tensors} tensors, {totals.num_parameters:,} parameters "
                f"({totals.share:.1%}){reach}"
            )

    def on_remark(self, remark: str) -> None:
        """Something to think about before the first run."""
        self._say(f"note: {remark}")

    def on_poll(self, jobs: Sequence[Job]) -> None:
        """Show how far each job is, and how many are done."""
        reported = [(job, self._read(job)) for job in jobs]
        self._advance(ALL_RUNS, sum(progress.stage == DONE for _, progress in reported), len(jobs), "")
        if self._live.is_started:
            self._live.update(Group(render_rows(list_rows(reported)), LEGEND, self._bars))
        else:
            for job, progress in reported:
                self._narrate(job, progress)

    def _read(self, job: Job) -> JobProgress:
        """A job's progress; that of a finished one is read once, since there may be hundreds."""
        if job.folder not in self._finished:
            progress = job.read_progress()
            if progress.stage != DONE:
                return progress
            self._finished[job.folder] = progress
        return self._finished[job.folder]

    def _narrate(self, job: Job, progress: JobProgress) -> None:
        """Say where a job has got to, if it is somewhere else than before."""
        if progress.stage == WAITING or self._stages.get(job.folder) == progress.stage:
            return
        self._stages[job.folder] = progress.stage
        what = describe_outcome(job, progress) if progress.stage == DONE else f"{job.label}: {progress.stage}"
        self._say(f"[{format_seconds(time.monotonic() - self._started)}] {what}")

    def _advance(self, name: str, done: int, total: int | None, detail: str) -> None:
        self._bars.update(self._tasks[name], completed=done, total=total, detail=escape(detail), visible=True)

    def _say(self, message: str) -> None:
        """One dim line above the table."""
        self._bars.console.print(f"[dim]{escape(message)}[/dim]", soft_wrap=True)
