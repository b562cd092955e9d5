"""Where a run lives while it is under way: `OUTPUT.partial`, renamed to `OUTPUT` when it is done.

    OUTPUT/run.json      the Run
    OUTPUT/recipe.yaml   the recipe as resolved
    OUTPUT/plan.yaml     the Plan
    OUTPUT/data.json     which text
    OUTPUT/anchor.safetensors   the blocks of old data, where a method uses any
    OUTPUT/memory.pt     what the method keeps for a next task, where that was asked for
    OUTPUT/delta/        the delta checkpoint
    OUTPUT/adapter/      LoRA's matrices in PEFT's format, where that was the adapter

An output directory is therefore always a finished run, and a finished run is only ever replaced by another.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Final

import yaml

from oblong.checkpoints.delta import is_empty_directory, replace_directory
from oblong.errors import OutputExistsError, UserError
from oblong.records import DataSource, Plan
from oblong.records.base import explain_write_errors, load_document, replace_on_success, validate
from oblong.tuning.recipe import TuneRecipe

RUN_FILE: Final = "run.json"
RECIPE_FILE: Final = "recipe.yaml"
PLAN_FILE: Final = "plan.yaml"
DATA_FILE: Final = "data.json"
DELTA_DIRECTORY: Final = "delta"
ADAPTER_DIRECTORY: Final = "adapter"
ANCHOR_FILE: Final = "anchor.safetensors"
CHECKPOINTS_DIRECTORY: Final = "checkpoints"

FIELDS_FREE_TO_CHANGE: Final = frozenset({"output", "log_every", "save_every", "threads", "keep_for_next"})
"""What a resumed run may do differently: none of these decides which numbers come out (threads: but for rounding)."""


def refuse_existing_output(output: Path, *, force: bool) -> None:
    """Stop before any work is done if the run could not take its place in the end.

    Raises:
        OutputExistsError: `output` exists, is not empty, and `force` is false.
        UserError: `output` exists and is no run of oblong's, so that even `force` must not remove it.
    """
    if not output.exists() or is_empty_directory(output):
        return
    if not force:
        raise OutputExistsError(output)
    if not (output / RUN_FILE).is_file():
        raise UserError(f"{output} is not a run of oblong's and will not be replaced: choose another output")


def locate_workspace(output: Path) -> Path:
    """Where a run is while it is going on."""
    return output.with_name(f"{output.name}.partial")


def begin_workspace(workspace: Path, recipe: str) -> None:
    """Make the directory, and write down what the run was started with.

    Raises:
        OutputWriteError: the disk is full or the place is not writable.
    """
    with explain_write_errors(workspace):
        workspace.mkdir(parents=True, exist_ok=True)
    with replace_on_success(workspace / RECIPE_FILE, force=True) as file:
        file.write(recipe)


def find_changed_fields(workspace: Path, now: Mapping[str, Any], *, free: Set[str]) -> Iterator[str]:
    """What differs between a recipe and that of an unfinished run.

    Args:
        workspace: of the unfinished run.
        now: the recipe's fields.
        free: fields that may differ.
    """
    started: dict[str, Any] = yaml.safe_load((workspace / RECIPE_FILE).read_text(encoding="utf-8"))
    for name in now.keys() - free:
        yield from _compare_field(name, started.get(name), now[name])


def _compare_field(place: str, before: Any, now: Any) -> Iterator[str]:
    """A field that a recipe does not have is as one that is null: the recipe may be older than the field."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in before.keys() | now.keys():
            yield from _compare_field(f"{place}.{key}", before.get(key), now.get(key))
    elif before != now:
        yield f"{place} was {before!r}, is {now!r}"


def refuse_other_run(workspace: Path, differences: Iterable[str]) -> None:
    """Stop where an unfinished run is another one.

    Raises:
        UserError: with all differences, if there is any.
    """
    if found := sorted(differences):
        raise UserError(
            f"{workspace} holds an unfinished run that differs: {'; '.join(found)}\n"
            "repeat what it was started with to resume it, or pass --fresh to start over"
        )


def open_workspace(output: Path, recipe: TuneRecipe, plan: Plan, data: DataSource, *, resume: bool) -> Path:
    """Make the working directory of a run, or find it again.

    Args:
        output: where the finished run will be.
        recipe: as resolved.
        plan: the Plan.
        data: identity of the text.
        resume: go on with an unfinished run; otherwise remove it.

    Raises:
        UserError: an unfinished run has another recipe, Plan or text; the message says what differs.
        OutputWriteError: the disk is full or the place is not writable.
    """
    workspace = locate_workspace(output)
    if workspace.exists() and not resume:
        shutil.rmtree(workspace)
    if (workspace / DATA_FILE).exists():
        refuse_other_run(workspace, _find_differences(workspace, recipe, plan, data))
        return workspace
    begin_workspace(workspace, recipe.to_yaml())
    plan.write(workspace / PLAN_FILE, force=True)
    # Written last: its presence says that the other two are whole.
    with replace_on_success(workspace / DATA_FILE, force=True) as file:
        file.write(data.model_dump_json(indent=1))
    return workspace


def close_workspace(workspace: Path, output: Path) -> None:
    """Drop the resume checkpoints and put the finished run in its place."""
    shutil.rmtree(workspace / CHECKPOINTS_DIRECTORY, ignore_errors=True)
    with explain_write_errors(output):
        replace_directory(workspace, output)


def _find_differences(workspace: Path, recipe: TuneRecipe, plan: Plan, data: DataSource) -> Iterator[str]:
    yield from find_changed_fields(workspace, recipe.model_dump(mode="json"), free=FIELDS_FREE_TO_CHANGE)
    if Plan.read(workspace / PLAN_FILE).digest() != plan.digest():
        yield "the Plan's content changed"
    if validate(DataSource, load_document(workspace / DATA_FILE), workspace / DATA_FILE).digest != data.digest:
        yield "the text changed"
