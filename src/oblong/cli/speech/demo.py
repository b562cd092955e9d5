"""`oblong speech demo`: the case study small, from a language model that is deaf to its transcripts and its text."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from oblong.cli.terminal import format_seconds, note, progress_bar, stdout
from oblong.errors import UserError

if TYPE_CHECKING:
    from oblong.records import SpeechEvaluation, SpeechRun
    from oblong.speech.training.recipe import SpeechTrainRecipe

ARM: Final = "kappa-lowest"
BUDGET: Final = "10M"  # of SmolLM2's 135 M parameters, as in `oblong demo`
SCAN_FILE: Final = "scan.jsonl"
PLAN_FILE: Final = "plan.yaml"
EVALUATION_FILE: Final = "evaluation.json"
REPORT_FILE: Final = "report.html"
NUM_SHOWN: Final = 6


def demo(
    quick: Annotated[bool, typer.Option("--quick", help="3 minutes: too short to hear anything.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for records, run and report.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do it all again although it is done.")] = False,
) -> None:
    """Teach a small language model to hear, and watch what becomes of its text.

    Fetches SmolLM2-135M-Instruct, a Whisper encoder and human speech where they are missing, scans the language model,
    chooses the tensors with the lowest condition numbers, trains an adaptor and then these, transcribes test clips and
    writes the plot of word errors and text retention. Interrupted, the same command goes on. The numbers are what came
    out.

    Example: oblong speech demo --quick
    """
    from oblong.cli.speech.report import print_runs
    from oblong.cli.tune import yield_while_waiting

    yield_while_waiting()
    from oblong.reporting.speech_run_page import write_speech_report
    from oblong.reporting.speech_run_rows import ArmRecord

    started = time.monotonic()
    recipe, path = read_demo_recipe(output, quick=quick)
    folder = Path(recipe.output).parent
    if fresh:
        forget(folder)
    fetch_what_is_missing(recipe)
    make_plan(folder, recipe.language_model)
    run = train(recipe, path)
    evaluation = evaluate_best(folder, recipe, run)
    records = [ArmRecord(arm=ARM, run=run)]
    print_runs(records)
    if evaluation is not None:
        print_transcripts(evaluation)
    page = folder / REPORT_FILE
    write_speech_report(page, records, evaluation=evaluation, png_directory=folder, force=True)
    print_next_steps(folder, recipe, run)
    note(f"took {format_seconds(time.monotonic() - started)}")
    stdout().print(f"report: {page}", soft_wrap=True, markup=False)


def read_demo_recipe(output: Path | None, *, quick: bool) -> tuple[SpeechTrainRecipe, Path]:
    """The shipped recipe, its output and plan in the demo's folder, and its file."""
    from oblong.recipes import recipe_path
    from oblong.speech.training.recipe import read_speech_recipe

    path = recipe_path("speech-demo-quick" if quick else "speech-demo")
    if output is None:
        return read_speech_recipe(path), path
    settings = [f"output={output / ARM}", f"adapt.arm.plan={output / PLAN_FILE}"]
    return read_speech_recipe(path, settings=settings), path


def forget(folder: Path) -> None:
    """Remove what the demo wrote, and nothing else that may lie in the folder."""
    for name in (ARM, f"{ARM}.partial"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (SCAN_FILE, PLAN_FILE, EVALUATION_FILE, f".{EVALUATION_FILE}.partial", REPORT_FILE):
        (folder / name).unlink(missing_ok=True)


def fetch_what_is_missing(recipe: SpeechTrainRecipe) -> None:
    """Models and speech of the recipe that are not on this machine."""
    from oblong.checkpoints.named import NAMED_MODELS
    from oblong.cli.fetch import ensure_fetched, find_fetchable

    for model in (recipe.encoder, recipe.language_model):
        if model in NAMED_MODELS:
            ensure_fetched(find_fetchable(model))
    names = list_missing_sets([*recipe.data.train, *recipe.data.evaluate.values()])
    if names:
        build_speech(names)


def list_missing_sets(manifests: Sequence[str]) -> list[str]:
    """The sets behind `speech:SET-train` and `speech:SET-test` whose files are not there."""
    from oblong.speech.training.recipe import FETCHED_PREFIX, resolve_manifest

    missing = [name for name in manifests if name.startswith(FETCHED_PREFIX) and not resolve_manifest(name).exists()]
    return list(dict.fromkeys(name.removeprefix(FETCHED_PREFIX).rpartition("-")[0] for name in missing))


def build_speech(names: Sequence[str]) -> None:
    """Build speech sets in the cache, as `oblong speech fetch-data --quick --only NAME` does."""
    from oblong.checkpoints.locate import cache_dir
    from oblong.cli.speech.fetch_data import FOLDER, build_with_progress
    from oblong.corpora.speech.building.build import QUICK_HOURS, BuildRequest

    note(f"building speech: {', '.join(names)}")
    build_with_progress(BuildRequest(folder=cache_dir() / FOLDER, names=tuple(names), hours=QUICK_HOURS, quick=True))


def make_plan(folder: Path, language_model: str) -> None:
    """Scan the language model and choose the tensors, unless that is done."""
    from oblong import planning, scanning
    from oblong.cli.scan import ScanBar

    if (folder / PLAN_FILE).exists():
        return
    with ScanBar() as bar:
        scan = scanning.scan(language_model, output=folder / SCAN_FILE, force=True, on_progress=bar.update)
    plan = planning.plan(scan, name=ARM, criterion="kappa", order="lowest", budget=BUDGET)
    plan.write(folder / PLAN_FILE)
    totals = plan.totals
    note(
        f"plan {plan.name}: {totals.num_tensors} of {len(scan.eligible)} tensors, "
        f"{totals.num_parameters:,} parameters ({totals.share:.1%})"
    )


def train(recipe: SpeechTrainRecipe, path: Path) -> SpeechRun:
    """Train, or go on, or take what an earlier call has finished.

    Raises:
        UserError: what was finished there had another recipe.
    """
    from oblong.cli.speech.train import show_progress
    from oblong.records import SpeechRun
    from oblong.speech.training import train_speech
    from oblong.tuning.workspace import RUN_FILE

    finished = Path(recipe.output) / RUN_FILE
    if finished.exists():
        run = SpeechRun.read(finished)
        if run.recipe != recipe.model_dump(mode="json"):
            raise UserError(
                f"{finished} was made with another recipe: pass --fresh to train again, or --output FOLDER to keep it"
            )
        note(f"trained already: {recipe.output}")
        return run
    with show_progress() as on_progress:
        return train_speech(recipe, on_progress=on_progress, path=path)


def evaluate_best(folder: Path, recipe: SpeechTrainRecipe, run: SpeechRun) -> SpeechEvaluation | None:
    """Transcribe the test sets with the kept checkpoint, through audio files as a user would; None if none was kept."""
    from oblong.records import SpeechEvaluation
    from oblong.speech.decoding import DecodingSettings
    from oblong.speech.evaluating import SpeechCorpus, evaluate_speech
    from oblong.speech.loading import load_transcriber
    from oblong.speech.training.recipe import resolve_manifest

    path = folder / EVALUATION_FILE
    if path.exists():
        return SpeechEvaluation.read(path)
    if run.best is None:
        return None
    corpora = [
        SpeechCorpus.read(resolve_manifest(manifest), name=name, limit=recipe.data.limits.evaluate)
        for name, manifest in recipe.data.evaluate.items()
    ]
    loaded = load_transcriber(str(Path(recipe.output) / run.best.directory))
    journal = folder / f".{EVALUATION_FILE}.partial"
    with progress_bar("clips") as bar:
        task = bar.add_task("transcribing", total=None, detail="")
        evaluation = evaluate_speech(
            loaded,
            corpora,
            DecodingSettings(),
            journal=journal,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    evaluation.write(path)
    journal.unlink(missing_ok=True)
    return evaluation


def print_transcripts(evaluation: SpeechEvaluation) -> None:
    """Some of what was heard beside what was said, evenly from the best to the worst."""
    from oblong.reporting.speech_run_page import list_heard

    for heard in list_heard(evaluation, NUM_SHOWN):
        table = Table(
            title=f"{heard.name}: {heard.shown} of {heard.total} clips, evenly from the best to the worst",
            title_justify="left",
            header_style="bold",
            box=box.SIMPLE_HEAD,
        )
        for heading in ("said", "heard"):
            table.add_column(heading, overflow="fold", ratio=1)
        table.add_column("wrong words", justify="right", no_wrap=True)
        for row in heard.rows:
            table.add_row(*map(escape, row))
        stdout().print(table)


def print_next_steps(folder: Path, recipe: SpeechTrainRecipe, run: SpeechRun) -> None:
    """What to do with the checkpoint."""
    if run.best is None:
        return
    best = Path(recipe.output) / run.best.directory
    for line in (f"next    oblong speech transcribe {best} FILE", f"        oblong speech serve {best} whisper-base"):
        stdout().print(line, soft_wrap=True, markup=False)
