"""SpeechRuns -> one self-contained HTML page: the figure, the tables, and what was heard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markupsafe import Markup

from oblong.errors import OutputExistsError
from oblong.records import SpeechEvaluation, Transcript
from oblong.records.base import replace_on_success
from oblong.reporting.figures import check_figures, write_figures
from oblong.reporting.html import page_environment, read_template, vega_bundle
from oblong.reporting.markup import SHAPE_PATHS, content_security_policy, to_script_json
from oblong.reporting.page_rows import describe_origin
from oblong.reporting.speech_run_charts import build_speech_run_figure
from oblong.reporting.speech_run_rows import ArmRecord, Axis, check_records, list_arms, list_sets
from oblong.reporting.speech_run_tables import (
    COST_CAPTION,
    COST_HEADINGS,
    MEAN,
    WER_CAPTION,
    cost_cells,
    describe_speech_runs,
    list_speech_run_rows,
    wer_cells,
    wer_headings,
)
from oblong.reporting.theme import SCREEN, style_arms

TEMPLATE: Final = "speech.html.j2"
NUM_TRANSCRIPTS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardSet:
    """Some transcripts of a test set beside their references."""

    name: str
    model: str
    shown: int
    total: int
    rows: tuple[tuple[str, str, str], ...]


def render_speech_report(
    records: Sequence[ArmRecord],
    *,
    evaluation: SpeechEvaluation | None = None,
    over: Axis = "time",
    title: str | None = None,
) -> str:
    """The page as a string; the same records give the same bytes.

    Args:
        records: runs under the names of their arms.
        evaluation: of a kept checkpoint; some of its transcripts are shown.
        over: what the horizontal axis measures.
        title: heading; by default it names the models.

    Raises:
        UserError: no run, a run without an evaluation, or one arm with one seed twice.
    """
    check_records(records)
    figure = build_speech_run_figure(records, over)
    rows, sets = list_speech_run_rows(records), list_sets(records)
    page_script = read_template("report.js")
    return (
        page_environment()
        .get_template(TEMPLATE)
        .render(
            title=title or _default_title(records),
            policy=content_security_policy(vega_bundle(), page_script),
            style=Markup(read_template("report.css")),
            vega_bundle=Markup(vega_bundle()),
            page_script=Markup(page_script),
            arm_styles=style_arms(list_arms(records)),
            shape_paths=SHAPE_PATHS,
            figure=figure,
            specs=to_script_json({figure.key: figure.spec(SCREEN)}),
            mean=MEAN,
            wer_headings=wer_headings(records),
            wer_rows=[wer_cells(row, sets) for row in rows],
            wer_caption=WER_CAPTION,
            cost_headings=COST_HEADINGS,
            cost_rows=[cost_cells(row) for row in rows],
            cost_caption=COST_CAPTION,
            sentences=describe_speech_runs(records),
            transcripts=[] if evaluation is None else list_heard(evaluation),
            provenance=list(_provenance(records, evaluation)),
        )
    )


def write_speech_report(
    path: Path,
    records: Sequence[ArmRecord],
    *,
    evaluation: SpeechEvaluation | None = None,
    over: Axis = "time",
    png_directory: Path | None = None,
    force: bool = False,
) -> tuple[Path, ...]:
    """Write the page, and its figure as PNG and SVG into `png_directory` when one is given.

    Returns:
        The files written, the page first.

    Raises:
        UserError: as `render_speech_report`.
        OutputExistsError: an output exists and `force` is false; nothing is written then.
        OutputWriteError: the disk is full or the place is not writable.
    """
    check_records(records)
    figures = (build_speech_run_figure(records, over),)
    if path.exists() and not force:
        raise OutputExistsError(path)
    if png_directory is not None:
        check_figures(png_directory, figures, force=force)
    page = render_speech_report(records, evaluation=evaluation, over=over)
    with replace_on_success(path, force=force) as file:
        file.write(page)
    return (path, *(write_figures(png_directory, figures, force=force) if png_directory is not None else ()))


def list_heard(evaluation: SpeechEvaluation, count: int = NUM_TRANSCRIPTS) -> list[HeardSet]:
    """Some transcripts of every set, evenly from the fewest wrong words per word said to the most.

    A choice by hand, or the first of the file, would show the model better or worse than it is.
    """
    return [
        HeardSet(
            name=name,
            model=evaluation.model,
            shown=min(count, len(scored.transcripts)),
            total=len(scored.transcripts),
            rows=tuple(_heard_row(transcript) for transcript in spread_transcripts(scored.transcripts, count)),
        )
        for name, scored in evaluation.sets.items()
    ]


def spread_transcripts(transcripts: Sequence[Transcript], count: int) -> list[Transcript]:
    """At most `count` transcripts at even ranks of their error rates, best first, ties in the order of the set."""
    ranked = sorted(transcripts, key=_count_wrong)
    if len(ranked) <= count:
        return ranked
    return [ranked[round(place * (len(ranked) - 1) / max(count - 1, 1))] for place in range(count)]


def _count_wrong(transcript: Transcript) -> float:
    """Wrong words per word said; where nothing was said, the words that were invented."""
    words = transcript.errors.words
    return words.errors / max(words.num_reference, 1)


def _heard_row(transcript: Transcript) -> tuple[str, str, str]:
    words = transcript.errors.words
    return transcript.reference, transcript.hypothesis, f"{words.errors} of {words.num_reference}"


def _default_title(records: Sequence[ArmRecord]) -> str:
    models = dict.fromkeys((record.run.language_model, record.run.encoder) for record in records)
    named = "; ".join(f"{language_model} hears through {encoder}" for language_model, encoder in models)
    return f"{named}: word errors, and what became of its text"


def _provenance(records: Sequence[ArmRecord], evaluation: SpeechEvaluation | None) -> Iterator[tuple[str, str]]:
    for record in records:
        run = record.run
        yield f"{record.arm}, seed {run.seed}", f"{run.digest()}; {describe_origin(run.provenance)}"
    used = [data for record in records for data in (*record.run.train, *record.run.evaluate.values())]
    for data in {data.digest: data for data in used}.values():
        yield "manifest", f"{data.manifest}, {data.num_utterances:,} clips, {data.seconds / 60:.1f} min, {data.digest}"
    if evaluation is not None:
        yield "transcripts", f"{evaluation.digest()}; {describe_origin(evaluation.provenance)}"
