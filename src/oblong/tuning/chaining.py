"""One task after the other: a run that goes on where a finished one ended.

The chain is one of deltas on one base. A run `after` another starts from the base with that run's delta on it, and its
own delta is again relative to the base: any task's delta stands alone, and frozen tensors are proved against the base
throughout. Between two tasks the weights are rounded to the file's dtype, as a finished run gives them back. Modules
beside the base come along whole, and get a part for the new task.

What a method knows of finished tasks comes along in two files of the earlier run: its memory (importances, owners of
weights, sums of gradients) and the anchor, to which a sample of the finished task's own text is added as one more group
of old data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from oblong.checkpoints.delta import Delta
from oblong.errors import PlanMismatchError, RecordError, UserError
from oblong.methods.protocol import Method, State
from oblong.records import Plan, Run, RunStatus
from oblong.records.base import explain_write_errors
from oblong.tuning.recipe import TuneRecipe
from oblong.tuning.verify import read_tuned_run

MEMORY_FILE: Final = "memory.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTask:
    """A run that another one goes on from.

    Attributes:
        folder: its directory.
        run: its record.
        delta: its weights.
        memory: what its method kept, if the next run has the same method; None otherwise.
    """

    folder: Path
    run: Run
    delta: Delta
    memory: State | None

    @property
    def delta_folder(self) -> Path:
        """Where its weights are."""
        return self.folder / self.run.delta


def read_finished_task(recipe: TuneRecipe, plan: Plan) -> FinishedTask | None:
    """The run that a recipe goes on from; None if it starts from the base.

    Raises:
        RecordError, CorruptCheckpointError, VerificationError: the run is not whole.
        PlanMismatchError: it trained other tensors, or added modules where this run does not, or the reverse.
        UserError: it diverged, or its method's memory was not kept.
    """
    if recipe.after is None:
        return None
    folder = Path(recipe.after)
    tuned = read_tuned_run(folder)
    _refuse_other_sort(folder, tuned.delta, recipe)
    if tuned.plan.tensor_names != plan.tensor_names:
        raise PlanMismatchError(f"after: {folder} trained other tensors than the Plan of this run: give both one Plan")
    if tuned.run.status is RunStatus.DIVERGED:
        raise UserError(f"after: {folder} diverged, so there is nothing to go on from: lower its learning rate")
    return FinishedTask(
        folder=folder, run=tuned.run, delta=tuned.delta, memory=_read_memory(folder, tuned.run.recipe, recipe)
    )


def _refuse_other_sort(folder: Path, delta: Delta, recipe: TuneRecipe) -> None:
    had = delta.manifest.modules is not None
    wants = recipe.adapter is not None and recipe.adapter.adds_modules
    if had != wants:
        sorts = {True: "adds modules beside the base", False: "changes tensors of the base"}
        raise PlanMismatchError(
            f"after: {folder} {sorts[had]}, and this run {sorts[wants]}: one sequence does one or the other"
        )


def _read_memory(folder: Path, before: Mapping[str, Any], now: TuneRecipe) -> State | None:
    method = before.get("method")
    if now.method is None or not isinstance(method, Mapping) or method.get("name") != now.method.name:
        return None
    return read_memory(folder)


def read_memory(folder: Path) -> State:
    """What the method of a finished run kept for the next task.

    Raises:
        UserError: nothing was kept.
        RecordError: the file cannot be read.
    """
    file = folder / MEMORY_FILE
    if not file.exists():
        raise UserError(
            f"after: {folder} did not keep what its method knows: repeat it with `keep_for_next: true` in its recipe"
        )
    try:
        state: State = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle each have errors of their own for a broken file
        raise RecordError(
            file, f"cannot be read ({type(error).__name__}): repeat the run that it belongs to"
        ) from error
    return state


def write_memory(folder: Path, method: Method) -> None:
    """Keep what a method must know when it learns the next task.

    Raises:
        OutputWriteError: the disk is full or the place is not writable.
    """
    file = folder / MEMORY_FILE
    scratch = file.with_suffix(".tmp")
    with explain_write_errors(file):
        torch.save(method.keep_for_next_task(), scratch)
        scratch.replace(file)
