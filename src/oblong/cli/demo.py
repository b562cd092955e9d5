"""`oblong demo`: the main job on a real model, from the checkpoint to the report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from oblong.cli.compare import print_comparison, remove_output, run_comparison, write_comparison_report
from oblong.cli.terminal import format_seconds, note
from oblong.errors import SelectionError


def demo(
    quick: Annotated[bool, typer.Option("--quick", help="2 minutes: too short to conclude anything.")] = False,
    full: Annotated[bool, typer.Option("--full", help="A study with three seeds: some 30 minutes on 2 cores.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for runs, records, report.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do it all again although it is done.")] = False,
) -> None:
    """Scan a real model, choose tensors four ways, tune each on German, and measure what was learned and forgotten.

    The model is SmolLM2-135M-Instruct (fetched once, 93 MB), which knows hardly any German. Every arm trains the same
    number of parameters on the same text in the same order. About 8 minutes on 2 cores; interrupted, the same
    command goes on. The numbers are what came out: no arm is favoured.

    Example: oblong demo --quick
    """
    from oblong.comparing.recipe import read_compare_recipe
    from oblong.recipes import recipe_path

    if quick and full:
        raise SelectionError("--quick and --full exclude each other")
    recipe = read_compare_recipe(recipe_path("demo-quick" if quick else "demo-full" if full else "demo"))
    if output is not None:
        recipe = recipe.model_copy(update={"output": str(output)})
    started = time.monotonic()
    if fresh:
        remove_output(recipe)
    comparison = run_comparison(recipe)
    print_comparison(comparison)
    write_comparison_report(recipe, comparison)
    note(f"took {format_seconds(time.monotonic() - started)}")
