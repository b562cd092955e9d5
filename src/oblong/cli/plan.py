"""`oblong plan`: choose the tensors to train."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from oblong.cli.terminal import note, print_json, stdout, warn
from oblong.errors import OutputExistsError

if TYPE_CHECKING:
    from oblong.records import Plan

NUM_SHOWN: Final = 15

Order = Literal["lowest", "highest"]
Within = Literal["model", "role", "shape"]


def plan(
    scan: Annotated[Path, typer.Argument(help="A Scan, as `oblong scan` writes it.")],
    criterion: Annotated[
        str,
        typer.Option(
            help="What to rank by: kappa, kappa_excess, entropy_gap, entropy_gap_per_rank, stable_rank, snr, "
            "snr_sqrt_n, alpha (these three need `scan --spectrum full`), depth, random."
        ),
    ] = "kappa",
    order: Annotated[
        Order, typer.Option(help="Which end to train; lowest kappa is the paper's choice, highest its inverse.")
    ] = "lowest",
    budget: Annotated[
        str, typer.Option(help="How much may train: 100 (tensors), 10M or 500_000p (parameters), 5% (of the model).")
    ] = "5%",
    within: Annotated[
        Within, typer.Option(help="Rank in the whole model, or take the same share of every role or shape.")
    ] = "model",
    controls: Annotated[
        bool, typer.Option("--controls", help="Also write the inverse and two random plans of the same size.")
    ] = False,
    draws: Annotated[
        int, typer.Option(min=1, help="With --controls: draw each random control so many times, from SEED upwards.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the random criterion and the random controls.")] = 0,
    include_ineligible: Annotated[
        bool, typer.Option("--include-ineligible", help="Let embeddings, heads, routers, norms and biases be chosen.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; default: NAME.plan.yaml, named after the rule.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plans as one JSON document.")] = False,
) -> None:
    """Choose the tensors to train from a Scan, with the reason for each.

    The budget is never exceeded. With --controls the plan gets rivals of the same size beside it: FILE.inverse.yaml,
    FILE.random-parameters-s0.yaml and FILE.random-role-shape-s0.yaml. A rule that does not beat them has found nothing.

    Example: oblong plan demo.scan.jsonl --budget 10M --within role --controls -o plan.yaml
    """
    from oblong import planning
    from oblong.records import Scan

    measured = Scan.read(scan)
    rule = planning.make_rule(
        measured,
        criterion=criterion,
        order=order,
        within=within,
        budget=budget,
        seed=seed,
        include_ineligible=include_ineligible,
    )
    chosen = planning.select(measured, rule)
    rivals = planning.controls(chosen, measured, range(seed, seed + draws)) if controls else []
    files = name_files(output or Path(f"{chosen.name}.plan.yaml"), chosen, rivals)
    write_all(files, force=force)
    if as_json:
        print_json(render_json(files))
    else:
        show(files)
        warn_about_unresolved(len(planning.find_unresolved(chosen, measured)), chosen)


def name_files(output: Path, chosen: Plan, rivals: Sequence[Plan]) -> Mapping[Path, Plan]:
    """The output of the plan, and beside it one of each control: FILE.inverse.yaml and so on."""
    beside = {
        output.with_name(f"{output.stem}.{rival.name.removeprefix(f'{chosen.name}-')}{output.suffix}"): rival
        for rival in rivals
    }
    return {output: chosen, **beside}


def write_all(files: Mapping[Path, Plan], *, force: bool) -> None:
    """Write every plan, or none if any file is in the way.

    Raises:
        OutputExistsError: a file exists and `force` is false.
    """
    for path in files:
        if path.exists() and not force:
            raise OutputExistsError(path)
    for path, content in files.items():
        content.write(path, force=force)


def show(files: Mapping[Path, Plan]) -> None:
    """Print the plan, its roles, its controls, what weakens it, and where it all lies."""
    from oblong.reporting.plan_tables import render_plans, render_roles, render_tensors

    chosen, *rivals = files.values()
    console = stdout()
    console.print(render_tensors(chosen, limit=NUM_SHOWN))
    console.print(render_roles(chosen))
    if rivals:
        console.print(render_plans([chosen, *rivals]))
    for remark in chosen.notes:
        note(remark)
    for path in files:
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def warn_about_unresolved(number: int, chosen: Plan) -> None:
    """Say how many choices rest on a number that the storage format does not resolve."""
    if number:
        warn(
            f"{number} of {len(chosen.tensors)} choices rest on a kappa that the rounding of the storage may have "
            "decided: the file gives its interval; stable_rank survives rounding better"
        )


def render_json(files: Mapping[Path, Plan]) -> str:
    """The plan and its controls, with their paths."""
    return json.dumps(
        {"plans": [{"path": str(path), "plan": content.model_dump(mode="json")} for path, content in files.items()]},
        indent=1,
        ensure_ascii=False,
    )
