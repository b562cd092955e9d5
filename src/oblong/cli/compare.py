"""`oblong compare`: run an experiment matrix and print what the differences are worth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from oblong.cli.live import MatrixProgress
from oblong.cli.terminal import format_bytes, format_count, format_seconds, note, print_json, stdout
from oblong.errors import OutputExistsError, SelectionError

if TYPE_CHECKING:
    from rich.table import Table

    from oblong.comparing import CompareRecipe
    from oblong.comparing.forecast import Forecast
    from oblong.records import Comparison


def compare(
    recipe: Annotated[str, typer.Argument(help="A YAML recipe, or the name of one that ships with oblong.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for runs and records.")] = None,
    model: Annotated[str | None, typer.Option(help="Use this model instead of the recipe's.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Train on this text instead; a tenth is held out if the recipe has no own text.")
    ] = None,
    text_field: Annotated[str, typer.Option(help="With --data: field or column that holds the text.")] = "text",
    seeds: Annotated[str | None, typer.Option(help="Use these seeds instead: 0,1,2.")] = None,
    arms: Annotated[str | None, typer.Option(help="Take these of the recipe's arms only: plain,lora.")] = None,
    control: Annotated[str | None, typer.Option(help="Compare the others with this arm instead.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at the same time. Default: one per core.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and run nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what an earlier call has finished.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the Comparison as JSON and nothing else.")] = False,
) -> None:
    """Tune several ways, with several seeds, and measure what each learned and forgot.

    Interrupted (Ctrl-C, kill, power cut), the same command goes on where it stopped. Arms, learning rates and seeds may
    be added later; what is done is kept.

    Example: oblong compare forgetting --model MODEL --data my.jsonl -o runs/first
    """
    given = {
        "output": None if output is None else str(output),
        "model": model,
        "workers": workers,
        "seeds": None if seeds is None else parse_seeds(seeds),
        "arms": None if arms is None else [name.strip() for name in arms.split(",")],
        "control": control,
    }
    resolved = resolve_recipe(recipe, given, fresh=fresh and not dry_run, data=data, text_field=text_field)
    if dry_run:
        show_forecast(resolved, as_json=json)
        return
    comparison = run_comparison(resolved)
    if json:
        print_json(comparison.model_dump_json(indent=1))
        return
    print_comparison(comparison)
    write_comparison_report(resolved, comparison)


def resolve_recipe(
    name: str, given: dict[str, Any], *, fresh: bool, data: str | None, text_field: str
) -> CompareRecipe:
    """The recipe with the command line's options in it, checked as a whole."""
    from oblong.comparing.recipe import build_compare_recipe
    from oblong.comparing.splitting import DATA_FOLDER, check_data, replace_data
    from oblong.recipes import find_recipe
    from oblong.records.recipe import load_recipe_data

    path = find_recipe(name, speech=False)
    written = load_recipe_data(path)
    fields = written | {key: value for key, value in given.items() if value is not None}
    if given["arms"] is not None:
        fields["arms"] = take_arms(written.get("arms"), given["arms"], path)
    recipe = build_compare_recipe(fields, path)
    if data is not None and recipe.tasks:
        raise SelectionError(
            f"--data {data}: {path.name} learns a sequence of tasks, each from its own text: copy the recipe and "
            "change the `data` of a task there"
        )
    if data is not None:
        check_data(fields, data, text_field=text_field)  # before --fresh throws anything away
    if fresh:
        remove_output(recipe)
    if data is None:
        return recipe
    replaced = build_compare_recipe(replace_data(fields, data, text_field=text_field, output=Path(recipe.output)), path)
    if replaced.evaluate.keys() != recipe.evaluate.keys():
        note(f"a part of {escape(data)} is held out and never trained on: {Path(recipe.output) / DATA_FOLDER}")
    return replaced


def take_arms(arms: Any, names: list[str], path: Path) -> dict[str, Any]:
    """The arms of a recipe that are named, in the recipe's order.

    Raises:
        SelectionError: one of them is not there.
    """
    known = arms if isinstance(arms, dict) else {}
    for name in names:
        if name not in known:
            raise SelectionError(f"--arms: {path.name} has no arm {name!r}; its arms: {', '.join(map(str, known))}")
    return {name: arm for name, arm in known.items() if name in names}


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` as numbers.

    Raises:
        SelectionError: something else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SelectionError(f"--seeds {text!r}: give whole numbers with commas between them, such as 0,1,2") from None


def show_forecast(recipe: CompareRecipe, *, as_json: bool) -> None:
    """Print what a comparison would take."""
    from rich.table import Table

    from oblong.comparing.forecast import forecast_comparison

    forecast = forecast_comparison(recipe, on_timing=lambda name: note(f"timing {escape(name)}"))
    if as_json:
        print_json(forecast.model_dump_json(indent=1))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for label, value in describe_forecast(forecast):
        table.add_row(f"[bold]{label}[/bold]", value)
    stdout().print(table)
    if forecast.arms:
        stdout().print(render_arm_forecasts(forecast))
    for remark in forecast.notes:
        note(escape(remark))


def describe_forecast(forecast: Forecast) -> Iterator[tuple[str, str]]:
    """Label and value of each line."""
    yield "runs", f"{forecast.num_runs} (arms x learning rates x seeds), {forecast.num_done} done already"
    yield "at a time", str(forecast.num_workers)
    if forecast.tokens_per_run is not None:
        left = (forecast.num_runs - forecast.num_done) * forecast.tokens_per_run
        yield "tokens", f"{format_count(forecast.tokens_per_run)} per run, {format_count(left)} to go"
    yield "evaluations", f"{forecast.evaluations_per_run} per run"
    if forecast.relearning_steps_per_run:
        yield "relearning", f"{forecast.relearning_steps_per_run} steps more per run"
    if forecast.seconds_per_evaluation is not None:
        yield "evaluation", format_seconds(forecast.seconds_per_evaluation)
    if forecast.seconds_per_suite is not None:
        yield "questions", f"{format_seconds(forecast.seconds_per_suite)}, once per run and for the base"
    if forecast.seconds is not None:
        yield "to go", f"about {format_seconds(forecast.seconds)}"
    if forecast.memory_bytes is not None:
        yield "memory", f"{format_bytes(forecast.memory_bytes)} per worker"
    if forecast.disk_bytes is not None:
        yield "disk", format_bytes(forecast.disk_bytes)


def render_arm_forecasts(forecast: Forecast) -> Table:
    """What each arm takes that still has something to do."""
    from oblong.reporting.formats import format_parameters, format_yes
    from oblong.reporting.table_layout import make_table

    headings = ("arm", "data-free", "trained", "runs", "step", "before", "one run")
    caption = (
        "Before: loading the model, old data, and what a method measures before its first step. One run: with all of "
        "its evaluations and questions."
    )
    table = make_table("Runs to go", headings, caption, gap=2)
    for arm in forecast.arms:
        whole = "-" if arm.seconds_per_run is None else format_seconds(arm.seconds_per_run)
        table.add_row(
            *(escape(arm.arm), format_yes(arm.data_free), format_parameters(arm.num_trainable), str(arm.num_left)),
            *(f"{arm.seconds_per_step:.2f} s", format_seconds(arm.seconds_before), whole),
        )
    return table


def remove_output(recipe: CompareRecipe) -> None:
    """Throw away what an earlier call has finished.

    Raises:
        OutputExistsError: the folder holds something, and no comparison.
    """
    import shutil

    from oblong.comparing.compare import COMPARISON_FILE, SCAN_FILE
    from oblong.comparing.jobs import BASE, JOB_FILE
    from oblong.comparing.splitting import DATA_FOLDER, HELD_OUT_FILE

    output = Path(recipe.output)
    if not output.exists():
        return
    marks = (COMPARISON_FILE, SCAN_FILE, f"{BASE}/{JOB_FILE}", f"{DATA_FOLDER}/{HELD_OUT_FILE}")
    is_comparison = any((output / mark).exists() for mark in marks)
    if not is_comparison and (not output.is_dir() or any(output.iterdir())):
        raise OutputExistsError(output, advice="it is no comparison, and --fresh removes nothing else: name another -o")
    shutil.rmtree(output)


def run_comparison(recipe: CompareRecipe) -> Comparison:
    """Run it with live progress; a missing demo model is fetched first."""
    from oblong.checkpoints.named import DEMO
    from oblong.cli.fetch import ensure_demo_model
    from oblong.comparing.compare import Watcher
    from oblong.comparing.compare import compare as run

    if recipe.model == DEMO:
        ensure_demo_model()
    with MatrixProgress() as progress:
        watcher = Watcher(
            on_scan=progress.on_scan,
            on_plans=progress.on_plans,
            on_remark=progress.on_remark,
            on_poll=progress.on_poll,
        )
        return run(recipe, watcher=watcher)


def print_comparison(comparison: Comparison) -> None:
    """The tables and the reading."""
    from oblong.reporting.comparison_tables import render_comparison
    from oblong.reporting.gain_tables import render_gains
    from oblong.reporting.reading import read_comparison
    from oblong.reporting.relearning_tables import render_relearning
    from oblong.reporting.sequence_tables import render_sequence
    from oblong.reporting.suite_tables import describe_answers, render_answers

    console = stdout()
    for render in (render_sequence, render_gains, render_comparison, render_relearning):
        for table in render(comparison, width=console.width):
            console.print(table)
            console.print()
    if comparison.answers:
        console.print(render_answers(comparison, width=console.width))
        console.print()
    for paragraph in read_comparison(comparison).brief:
        console.print(paragraph, markup=False)
    for paragraph in describe_answers(comparison.answers):
        console.print(paragraph, markup=False)


def write_comparison_report(recipe: CompareRecipe, comparison: Comparison) -> Path:
    """Write report.html beside the results and say where it is."""
    from oblong.comparing.compare import SCAN_FILE
    from oblong.records import Scan
    from oblong.reporting.html import write_report

    output = Path(recipe.output)
    scan = Scan.read(Path(recipe.scan) if recipe.scan else output / SCAN_FILE)
    path = output / "report.html"
    write_report(path, scan=scan, comparison=comparison, title=comparison.name, force=True)
    note(f"records and runs: {output}")
    stdout().print(f"report: {path}", soft_wrap=True)
    return path
