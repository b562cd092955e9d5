"""The live table of a comparison: one row per arm and learning rate while they are under way, one per arm otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING, Final

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from oblong.comparing.jobs import Job, JobProgress

    Reported = tuple[Job, JobProgress]

DONE: Final = "done"
WAITING: Final = "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """A line of the table.

    Attributes:
        arm: its name, or how many arms the line stands for.
        rate: name of the learning rate, or how many.
        runs: done / all.
        state: what goes on.
        new_domain: change of loss, nats per token, mean over the runs that have been evaluated; None before.
        retention: the same for the other texts.
    """

    arm: str
    rate: str
    runs: str
    state: str
    new_domain: float | None = None
    retention: float | None = None


def list_rows(jobs: Iterable[Reported]) -> Iterator[MatrixRow]:
    """One row per arm and learning rate of the arms under way; finished arms take one row, waiting ones share one."""
    waiting = []
    for arm, members in groupby(jobs, key=lambda entry: entry[0].arm):
        reported = list(members)
        stages = {progress.stage for _, progress in reported}
        if stages == {WAITING}:
            waiting.append(reported)
        elif stages == {DONE}:
            yield fold_arm(arm, reported)
        else:
            yield from (make_row(arm, list(group)) for _, group in groupby(reported, key=lambda entry: _rate(entry[0])))
    if waiting:
        names = waiting[0][0][0].arm if len(waiting) == 1 else f"{len(waiting)} more arms"
        yield MatrixRow(arm=names, rate="", runs=f"0/{sum(map(len, waiting))}", state=WAITING)


def fold_arm(arm: str, reported: Sequence[Reported]) -> MatrixRow:
    """A finished arm: the learning rate that learned most."""
    rows = [make_row(arm, list(group)) for _, group in groupby(reported, key=lambda entry: _rate(entry[0]))]
    best = min(rows, key=lambda row: 0.0 if row.new_domain is None else row.new_domain)
    return MatrixRow(
        arm=arm,
        rate=f"best {best.rate}" if len(rows) > 1 else best.rate,
        runs=f"{len(reported)}/{len(reported)}",
        state=DONE,
        new_domain=best.new_domain,
        retention=best.retention,
    )


def make_row(arm: str, reported: Sequence[Reported]) -> MatrixRow:
    """An arm at one learning rate: all its seeds."""
    changes = [progress.changes for _, progress in reported if progress.changes is not None]
    kept = [change.retention for change in changes if change.retention is not None]
    done = sum(progress.stage == DONE for _, progress in reported)
    return MatrixRow(
        arm=arm,
        rate=_rate(reported[0][0]),
        runs=f"{done}/{len(reported)}",
        state=describe_state([progress for _, progress in reported]),
        new_domain=fmean(change.new_domain for change in changes) if changes else None,
        retention=fmean(kept) if kept else None,
    )


def describe_state(reported: Sequence[JobProgress]) -> str:
    """What the runs of a row are at: the first that is neither done nor waiting speaks for them."""
    running = [progress for progress in reported if progress.stage not in (DONE, WAITING)]
    if not running:
        return DONE if all(progress.stage == DONE for progress in reported) else WAITING
    first = running[0]
    if first.stage == "tuning":
        return f"step {first.done}/{first.total}"
    return first.stage if first.total <= 1 else f"{first.stage} {first.done / first.total:.0%}"


def render_rows(rows: Iterable[MatrixRow]) -> Table:
    """The table, readable at 80 columns."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("arm", max_width=24, overflow="ellipsis", no_wrap=True)
    for heading in ("lr", "runs", "new", "kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, max_width=18)
    for row in rows:
        cells = (escape(row.arm), row.rate, row.runs, _signed(row.new_domain), _signed(row.retention), row.state)
        table.add_row(*cells, style="dim" if row.state in (DONE, WAITING) else None)
    return table


def describe_outcome(job: Job, progress: JobProgress) -> str:
    """A finished run in one line; how it ended, unless after its last step."""
    end = f" ({progress.detail})" if progress.detail else ""
    if progress.changes is None:
        return job.label + end
    kept = "" if progress.changes.retention is None else f", kept {_signed(progress.changes.retention)}"
    return f"{job.label}: new {_signed(progress.changes.new_domain)}{kept}{end}"


def _rate(job: Job) -> str:
    return "" if job.rate_name is None else job.rate_name


def _signed(change: float | None) -> str:
    return "" if change is None else f"{change:+.3f}"
