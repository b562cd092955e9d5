"""The old data of a run: read or generated once, and kept with the run, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from oblong.methods import AnchorData, AnchorOptions, build_anchor
from oblong.models.causal_lm import LoadedModel
from oblong.records.base import explain_write_errors
from oblong.tuning.recipe import TuneRecipe


def obtain_anchor(recipe: TuneRecipe, loaded: LoadedModel, file: Path) -> AnchorData | None:
    """The anchor that a recipe's method takes, from `file` if an interrupted run has made it; None if it takes none.

    Args:
        recipe: how to train.
        loaded: the model, still at the base's weights.
        file: where the blocks are kept.

    Raises:
        DataError: a text is missing or too short.
        OutputWriteError: the blocks could not be written.
    """
    options = recipe.anchor
    if options is None or not recipe.uses_anchor:
        return None
    model = loaded.model

    def build() -> AnchorData:
        return build_anchor(
            options,
            model,
            loaded.tokenizer,
            sequence_length=recipe.sequence_length,
            autocast=lambda: torch.autocast(model.device.type, torch.bfloat16, enabled=recipe.dtype == "bfloat16"),
        )

    return build_once(file, options, build)


def build_once(file: Path, options: AnchorOptions, build: Callable[[], AnchorData]) -> AnchorData:
    """The anchor in `file`, which is built and written if it is not there.

    Raises:
        OutputWriteError: the blocks could not be written.
    """
    if file.exists():
        stored = load_file(file)
        return AnchorData(blocks=stored["blocks"], tasks=stored["tasks"], sources=options.sources)
    anchor = build()
    scratch = file.with_suffix(".tmp")
    with explain_write_errors(file):
        save_file({"blocks": anchor.blocks.contiguous(), "tasks": anchor.tasks}, scratch)
        scratch.replace(file)
    return anchor
