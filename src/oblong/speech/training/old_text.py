"""Old text, that stage B must not make the language model forget: found early, and kept with the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from oblong.corpora import read_documents
from oblong.errors import UserError
from oblong.methods import SELF_GENERATED, AnchorData, build_anchor
from oblong.models.causal_lm import TORCH_DTYPES
from oblong.models.speech_lm import SpeechLMForConditionalGeneration, SpeechLMProcessor
from oblong.speech.training.method_fit import reads_old_text
from oblong.speech.training.recipe import SpeechTrainRecipe
from oblong.tuning.anchor import build_once


def list_unreadable(recipe: SpeechTrainRecipe) -> Iterator[str]:
    """What is wrong with the texts that the recipe's method takes."""
    anchor = recipe.adapt.anchor
    if anchor is None or not reads_old_text(recipe.adapt.method, anchor):
        return
    for source in anchor.sources:
        if source == SELF_GENERATED:
            continue
        try:
            read_documents(source, text_field=anchor.text_field)
        except UserError as error:
            yield f"adapt.anchor: {error}"


def obtain_old_text(
    recipe: SpeechTrainRecipe, model: SpeechLMForConditionalGeneration, processor: SpeechLMProcessor, file: Path
) -> AnchorData | None:
    """The old text that the method takes, from `file` if an interrupted run has made it; None if it takes none.

    Args:
        recipe: how to train.
        model: its language model still at the base's weights.
        processor: has the tokenizer.
        file: where the blocks are kept.

    Raises:
        DataError: a text is missing or too short.
        OutputWriteError: the blocks could not be written.
    """
    options = recipe.adapt.anchor
    if options is None or not reads_old_text(recipe.adapt.method, options):
        return None
    view = model.as_causal_lm()

    def build() -> AnchorData:
        return build_anchor(
            options,
            view,
            processor.tokenizer,
            sequence_length=recipe.adapt.block_tokens,
            autocast=make_autocast(recipe, view.device),
        )

    return build_once(file, options, build)


def make_autocast(recipe: SpeechTrainRecipe, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """The precision of the training's forward passes."""
    dtype = TORCH_DTYPES[recipe.dtype]
    return partial(torch.autocast, device.type, dtype, enabled=dtype != torch.float32)
