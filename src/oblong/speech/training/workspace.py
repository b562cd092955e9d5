"""Where a training lives: `OUTPUT.partial` while it runs, renamed to `OUTPUT` when it is done.

OUTPUT/run.json        the SpeechRun; rewritten at every evaluation while the run is going on
OUTPUT/points.jsonl    its evaluations, one line each, appended as they are made
OUTPUT/recipe.yaml     the recipe as resolved
OUTPUT/inputs.json     digests of the files that went in
OUTPUT/recordings.json how many recordings of each set could be used, and a digest of them
OUTPUT/anchor.safetensors  old text, for a method that takes it
OUTPUT/aligned/        speech delta after stage A: the adaptor
OUTPUT/best/           speech delta of the best evaluation
OUTPUT/last/           speech delta of the last good step
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Final

from oblong.errors import UserError
from oblong.records.base import load_document, replace_on_success
from oblong.speech.training.recipe import SpeechTrainRecipe
from oblong.tuning.workspace import begin_workspace, find_changed_fields, locate_workspace, refuse_other_run

POINTS_FILE: Final = "points.jsonl"
INPUTS_FILE: Final = "inputs.json"
RECORDINGS_FILE: Final = "recordings.json"
ALIGNED: Final = "aligned"
BEST: Final = "best"
LAST: Final = "last"

FIELDS_FREE_TO_CHANGE: Final = frozenset({"output", "log_every", "save_every", "threads", "shard_frozen", "cache"})
"""What a resumed run may do differently: none of these decides which numbers come out (threads, sharding: but for
rounding)."""


def open_workspace(output: Path, recipe: SpeechTrainRecipe, inputs: Mapping[str, str], *, resume: bool) -> Path:
    """Make the working directory of a run, or find it again.

    Args:
        output: where the finished run will be.
        recipe: as resolved.
        inputs: digests of the files that decide the outcome, by what the recipe calls them.
        resume: go on with an unfinished run; otherwise remove it.

    Raises:
        UserError: an unfinished run had another recipe or other files; the message says what differs.
        OutputWriteError: the disk is full or the place is not writable.
    """
    workspace = locate_workspace(output)
    if workspace.exists() and not resume:
        shutil.rmtree(workspace)
    if (workspace / INPUTS_FILE).exists():
        fields = find_changed_fields(workspace, recipe.model_dump(mode="json"), free=FIELDS_FREE_TO_CHANGE)
        files = _find_changed_files(load_document(workspace / INPUTS_FILE), inputs)
        refuse_other_run(workspace, chain(fields, files))
        return workspace
    begin_workspace(workspace, recipe.to_yaml())
    # Written last: its presence says that the recipe is whole.
    with replace_on_success(workspace / INPUTS_FILE, force=True) as file:
        json.dump(inputs, file, indent=1)
    return workspace


def require_workspace(workspace: Path) -> None:
    """Make sure that this process sees the directory that the first one made.

    Raises:
        UserError: it does not.
    """
    if not (workspace / INPUTS_FILE).exists():
        raise UserError(
            f"{workspace} is not there: all processes of a training must see the same output, so name one on a disk "
            "that their machines share"
        )


def _find_changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    return (f"the content of {name} changed" for name in now if name in before and before[name] != now[name])
