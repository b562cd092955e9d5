"""`oblong compare`: run an experiment matrix and print what the differences are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oblong.cli.live import MatrixProgress
from oblong.cli.terminal import note, print_json, stdout

if TYPE_CHECKING:
    from oblong.comparing import CompareRecipe
    from oblong.records import Comparison


def compare(
    recipe: Annotated[Path, typer.Argument(help="The comparison's recipe, a YAML file.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for runs and records.")] = None,
    model: Annotated[str | None, typer.Option(help="Use this model instead of the recipe's.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at the same time. Default: one per core.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what an earlier call has finished.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the Comparison as JSON and nothing else.")] = False,
) -> None:
    """Tune several ways, with several seeds, and measure what each learned and forgot.

    Interrupted (Ctrl-C, kill, power cut), the same command goes on where it stopped.

    Example: oblong compare recipe.yaml -o runs/first
    """
    from oblong.comparing.recipe import read_compare_recipe

    given = {"output": str(output) if output else None, "model": model, "workers": workers}
    resolved = read_compare_recipe(recipe).model_copy(update={key: value for key, value in given.items() if value})
    comparison = run_comparison(resolved, fresh=fresh)
    if json:
        print_json(comparison.model_dump_json(indent=1))
        return
    print_comparison(comparison)
    write_comparison_report(resolved, comparison)


def run_comparison(recipe: CompareRecipe, *, fresh: bool) -> Comparison:
    """Run it with live progress; a missing demo model is fetched first."""
    import shutil

    from oblong.checkpoints.named import DEMO
    from oblong.cli.fetch import ensure_demo_model
    from oblong.comparing.compare import Watcher
    from oblong.comparing.compare import compare as run

    if recipe.model == DEMO:
        ensure_demo_model()
    if fresh and Path(recipe.output).exists():
        shutil.rmtree(recipe.output)
    with MatrixProgress() as progress:
        watcher = Watcher(on_scan=progress.on_scan, on_plans=progress.on_plans, on_poll=progress.on_poll)
        return run(recipe, watcher=watcher)


def print_comparison(comparison: Comparison) -> None:
    """The tables and the reading."""
    from oblong.reporting.comparison_tables import render_comparison
    from oblong.reporting.reading import read_comparison
    from oblong.reporting.suite_tables import describe_answers, render_task_changes

    console = stdout()
    for table in render_comparison(comparison, width=console.width):
        console.print(table)
    if comparison.answers:
        console.print(render_task_changes(comparison.answers, title="Answers to questions, before and after"))
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
