"""`oblong speech report`: word errors and text retention of trainings, in one plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from oblong.cli.terminal import note, stdout

if TYPE_CHECKING:
    from oblong.reporting.speech_run_rows import ArmRecord

RUN_FILE: Final = "run.json"


def report(
    runs: Annotated[
        list[str],
        typer.Argument(help="RUN or NAME=RUN: folders of `oblong speech train`, or their run.json.", metavar="RUN..."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path("speech-report.html"),
    png: Annotated[Path | None, typer.Option(help="Also write the figure as PNG and SVG into this folder.")] = None,
    transcripts: Annotated[
        Path | None, typer.Option(help="Show transcripts from this record of `oblong speech evaluate`.")
    ] = None,
    over: Annotated[Literal["time", "steps"], typer.Option(help="What the horizontal axis measures.")] = "time",
    force: Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")] = False,
) -> None:
    """Plot the word error rate over training, and below it what became of the text; print the tables.

    Runs of one name that differ in their seed are one arm: thin lines, and their mean. A run's name without its seed
    (`lora-2` with seed 2 is lora) is its arm's, unless NAME= says otherwise. A run that is still going can be reported.

    Example: oblong speech report lowest=runs/lowest-0 lowest=runs/lowest-1 random=runs/random-0 -o report.html
    """
    from oblong.records import SpeechEvaluation
    from oblong.reporting.speech_run_page import write_speech_report

    records = read_runs(runs)
    written = write_speech_report(
        output,
        records,
        evaluation=SpeechEvaluation.read(transcripts) if transcripts else None,
        over=over,
        png_directory=png,
        force=force,
    )
    print_runs(records)
    for path in written[1:]:
        note(f"wrote {path}")
    stdout().print(f"wrote {written[0]}", soft_wrap=True, markup=False)


def read_runs(entries: Sequence[str]) -> list[ArmRecord]:
    """`RUN` and `NAME=RUN` as records under the names of their arms."""
    from oblong.cli.evaluate import split_entry
    from oblong.records import SpeechRun
    from oblong.reporting.speech_run_rows import ArmRecord, name_arm

    records = []
    for name, place in map(split_entry, entries):
        run = SpeechRun.read(find_run_file(Path(place)))
        records.append(ArmRecord(arm=name or name_arm(run), run=run))
    return records


def find_run_file(place: Path) -> Path:
    """A run's record: in its folder, or, while it is going on, in the folder that will take its place."""
    under_way = place.with_name(f"{place.name}.partial")
    if not place.exists() and under_way.is_dir():
        place = under_way
    return place / RUN_FILE if place.is_dir() else place


def print_runs(records: Sequence[ArmRecord]) -> None:
    """The tables, and what they do not say."""
    from oblong.reporting.speech_run_tables import describe_speech_runs, render_speech_runs

    console = stdout()
    for table in render_speech_runs(records):
        console.print(table)
    for sentence in describe_speech_runs(records):
        console.print(sentence, markup=False, soft_wrap=True)
