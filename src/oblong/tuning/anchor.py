"""The old data of a run: read or generated once, and kept with the run, so that a resumed run sees the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from oblong.methods import AnchorData, AnchorOptions, build_anchor
from oblong.methods.anchor import sample_blocks
from oblong.models.causal_lm import LoadedModel
from oblong.models.packing import pack_documents
from oblong.records.base import explain_write_errors
from oblong.tuning.chaining import FinishedTask
from oblong.tuning.data import read_training_text
from oblong.tuning.recipe import TuneRecipe
from oblong.tuning.workspace import ANCHOR_FILE

SOURCES: Final = "sources"


def obtain_anchor(
    recipe: TuneRecipe, loaded: LoadedModel, file: Path, *, before: FinishedTask | None = None
) -> AnchorData | None:
    """The anchor that a recipe's method takes, from `file` if an interrupted run has made it; None if it takes none.

    Args:
        recipe: how to train.
        loaded: the model, still at the weights that the run starts from.
        file: where the blocks are kept.
        before: the run that this one goes on from: its anchor and a sample of its text are this run's anchor.

    Raises:
        DataError: a text is missing or too short.
        OutputWriteError: the blocks could not be written.
    """
    options = recipe.anchor
    if options is None or not recipe.uses_anchor:
        return None

    def build() -> AnchorData:
        kept = None if before is None else before.folder / ANCHOR_FILE
        anchor = _generate(options, recipe, loaded) if kept is None or not kept.exists() else read_anchor(kept, options)
        return anchor if before is None else add_task(anchor, before, options, recipe, loaded)

    return build_once(file, options, build)


def _generate(options: AnchorOptions, recipe: TuneRecipe, loaded: LoadedModel) -> AnchorData:
    model = loaded.model
    return build_anchor(
        options,
        model,
        loaded.tokenizer,
        sequence_length=recipe.sequence_length,
        autocast=lambda: torch.autocast(model.device.type, torch.bfloat16, enabled=recipe.dtype == "bfloat16"),
    )


def add_task(
    anchor: AnchorData, before: FinishedTask, options: AnchorOptions, recipe: TuneRecipe, loaded: LoadedModel
) -> AnchorData:
    """The anchor with a sample of a finished task's text, as many blocks as of every other source.

    Raises:
        DataError: the text is no longer there.
    """
    documents = read_training_text(TuneRecipe.model_validate(before.run.recipe).data)
    blocks = pack_documents(documents.texts, loaded.tokenizer, recipe.sequence_length, source=documents.source)
    sample = sample_blocks(blocks, options.blocks, seed=options.seed + anchor.num_tasks)
    return anchor.add_group(sample, before.run.data.name)


def build_once(file: Path, options: AnchorOptions, build: Callable[[], AnchorData]) -> AnchorData:
    """The anchor in `file`, which is built and written if it is not there.

    Raises:
        OutputWriteError: the blocks could not be written.
    """
    if file.exists():
        return read_anchor(file, options)
    anchor = build()
    scratch = file.with_suffix(".tmp")
    with explain_write_errors(file):
        tensors = {"blocks": anchor.blocks.contiguous(), "tasks": anchor.tasks}
        save_file(tensors, scratch, metadata={SOURCES: json.dumps(anchor.sources)})
        scratch.replace(file)
    return anchor


def read_anchor(file: Path, options: AnchorOptions) -> AnchorData:
    """An anchor as `build_once` wrote it; a file without names of its sources is an older one, of the options' own."""
    with safe_open(file, framework="pt") as stored:
        named = (stored.metadata() or {}).get(SOURCES)
        sources = options.sources if named is None else tuple(json.loads(named))
        return AnchorData(blocks=stored.get_tensor("blocks"), tasks=stored.get_tensor("tasks"), sources=sources)
