"""SpeechRuns as tables: how well each arm came to hear, what its text became, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from rich import box
from rich.markup import escape
from rich.table import Table

from oblong.records import Interval, SpeechPoint, SpeechRun
from oblong.reporting.formats import NOTHING, format_duration, format_parameters
from oblong.reporting.speech_run_rows import ArmRecord, list_arms, list_sets

MEAN: Final = "mean"
COST_HEADINGS: Final = ("arm", "seed", "text at best", "text at the end", "trained", "adaptor", "training", "ended")
COST_CAPTION: Final = (
    "text: perplexity over that of the untouched model, the worst of the texts; trained: parameters of the language "
    "model, the adaptor's beside it; training: both stages, without evaluations"
)
WER_CAPTION: Final = (
    "WER in %, normalised, at the checkpoint that was kept; [ ] are 95 % bootstrap intervals over clips"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRunRow:
    """A run, or the mean over the seeds of an arm. Rates are shares; None is not measured."""

    arm: str
    seed: str
    wer: Mapping[str, float | None]
    intervals: Mapping[str, Interval | None]
    best_wer: float | None
    final_wer: float | None
    best_retention: float | None
    final_retention: float | None
    num_trainable: int
    num_adaptor: int
    seconds: float
    ended: str


def list_speech_run_rows(records: Sequence[ArmRecord]) -> list[SpeechRunRow]:
    """One row per run, arm by arm, and one with the means after an arm of several seeds."""
    rows: list[SpeechRunRow] = []
    for arm in list_arms(records):
        runs = sorted((record.run for record in records if record.arm == arm), key=lambda run: run.seed)
        members = [_make_row(arm, run) for run in runs]
        rows += members
        if len(members) > 1:
            rows.append(_average(members))
    return rows


def find_best_point(run: SpeechRun) -> SpeechPoint | None:
    """The evaluation of the checkpoint that was kept."""
    if run.best is None:
        return None
    place = (run.best.stage, run.best.step)
    return next((point for point in run.points if (point.stage, point.step) == place), None)


def _make_row(arm: str, run: SpeechRun) -> SpeechRunRow:
    best, last = find_best_point(run), run.points[-1]
    scored = {} if best is None else best.wer
    return SpeechRunRow(
        arm=arm,
        seed=str(run.seed),
        wer={name: errors.wer for name, errors in scored.items()},
        intervals={name: errors.interval for name, errors in scored.items()},
        best_wer=None if best is None else best.macro_wer,
        final_wer=last.macro_wer,
        best_retention=None if best is None else best.worst_retention,
        final_retention=last.worst_retention,
        num_trainable=run.arm.num_trainable,
        num_adaptor=run.num_adaptor,
        seconds=sum(stage.seconds for stage in run.stages),
        ended=run.status.value.replace("_", " "),
    )


def _average(rows: Sequence[SpeechRunRow]) -> SpeechRunRow:
    return SpeechRunRow(
        arm=rows[0].arm,
        seed=MEAN,
        wer={name: _mean([row.wer.get(name) for row in rows]) for name in rows[0].wer},
        intervals={},
        best_wer=_mean([row.best_wer for row in rows]),
        final_wer=_mean([row.final_wer for row in rows]),
        best_retention=_mean([row.best_retention for row in rows]),
        final_retention=_mean([row.final_retention for row in rows]),
        num_trainable=rows[0].num_trainable,
        num_adaptor=rows[0].num_adaptor,
        seconds=fmean(row.seconds for row in rows),
        ended=", ".join(f"{count} {ended}" for ended, count in Counter(row.ended for row in rows).items()),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one of the seeds has no value: a mean over the others would flatter the arm."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def wer_headings(records: Sequence[ArmRecord]) -> list[str]:
    """Headings of the table of word errors: one column per test set, and means where there are several."""
    sets = list_sets(records)
    return ["arm", "seed", *sets, *(["mean"] if len(sets) > 1 else []), "at the end"]


def wer_cells(row: SpeechRunRow, sets: Sequence[str]) -> list[str]:
    """A row of that table."""
    rates = [_format_rate(row.wer.get(name)) + _format_interval(row.intervals.get(name)) for name in sets]
    mean = [_format_rate(row.best_wer)] if len(sets) > 1 else []
    return [row.arm, row.seed, *rates, *mean, _format_rate(row.final_wer)]


def cost_cells(row: SpeechRunRow) -> list[str]:
    """A row of the table of text and cost."""
    return [
        row.arm,
        row.seed,
        _format_ratio(row.best_retention),
        _format_ratio(row.final_retention),
        format_parameters(row.num_trainable),
        format_parameters(row.num_adaptor),
        format_duration(row.seconds),
        row.ended,
    ]


def render_speech_runs(records: Sequence[ArmRecord]) -> list[Table]:
    """Both tables for the terminal."""
    rows, sets = list_speech_run_rows(records), list_sets(records)
    return [
        _render("Word errors", wer_headings(records), [wer_cells(row, sets) for row in rows], WER_CAPTION),
        _render("Text and cost", COST_HEADINGS, [cost_cells(row) for row in rows], COST_CAPTION),
    ]


def _render(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Table:
    table = Table(
        title=title,
        caption=escape(caption),
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for place, heading in enumerate(headings):
        table.add_column(escape(heading), justify="left" if place == 0 else "right", overflow="fold")
    for cells in rows:
        table.add_row(*map(escape, cells), style="bold" if cells[1] == MEAN else None)
    return table


def describe_speech_runs(records: Sequence[ArmRecord]) -> list[str]:
    """What the tables do not say: why each run ended, how much was tested, what was skipped."""
    return [sentence for record in records for sentence in _describe(record)]


def _describe(record: ArmRecord) -> Iterator[str]:
    run = record.run
    yield f"{record.arm} (seed {run.seed}), {run.arm.description}: {run.reason}"
    for name, data in run.evaluate.items():
        if data.num_limited:
            total = data.num_utterances + data.num_limited
            yield f"{record.arm} (seed {run.seed}), {name}: tested on {data.num_utterances} of {total} clips"
    skipped = [item for data in (*run.train, *run.evaluate.values()) for item in data.skipped]
    if skipped:
        first = f"{skipped[0].audio}: {skipped[0].reason}"
        yield f"{record.arm} (seed {run.seed}): {len(skipped)} clips skipped, the first: {first}"
    point = find_best_point(run)
    loops = {} if point is None else {name: errors.num_loops for name, errors in point.wer.items() if errors.num_loops}
    for name, count in loops.items():
        yield f"{record.arm} (seed {run.seed}), {name}: {count} transcripts of the kept checkpoint repeat themselves"


def _format_rate(rate: float | None) -> str:
    return NOTHING if rate is None else f"{100 * rate:.1f}"


def _format_interval(interval: Interval | None) -> str:
    return "" if interval is None else f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _format_ratio(ratio: float | None) -> str:
    return NOTHING if ratio is None else f"{ratio:.4f}"
