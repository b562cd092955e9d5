"""The method against forgetting of stage B: it sees the language model, its trained tensors, and old text.

The adaptor is not its business: it is new, so it has nothing to forget, and text does not pass through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from oblong.corpora import read_documents
from oblong.errors import UserError
from oblong.methods import SELF_GENERATED, AnchorData, Method, Training, build_anchor, build_method
from oblong.methods.memory import forecast_sizes, refuse_if_too_large
from oblong.methods.protocol import PlainFineTuning
from oblong.methods.recipe_fields import takes_anchor
from oblong.models.causal_lm import TORCH_DTYPES
from oblong.models.speech_lm import SpeechLMForConditionalGeneration, SpeechLMProcessor
from oblong.speech.training.recipe import ANCHOR_TOKENS, SpeechTrainRecipe
from oblong.tuning.anchor import build_once


def list_unreadable(recipe: SpeechTrainRecipe) -> Iterator[str]:
    """What is wrong with the texts that the recipe's method takes."""
    anchor = recipe.adapt.anchor
    if anchor is None or not takes_anchor(recipe.adapt.method, anchor):
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
    adapt = recipe.adapt
    options = adapt.anchor
    if options is None or not takes_anchor(adapt.method, options):
        return None
    view = model.as_causal_lm()

    def build() -> AnchorData:
        return build_anchor(
            options,
            view,
            processor.tokenizer,
            sequence_length=adapt.sequence_length or ANCHOR_TOKENS,
            autocast=make_autocast(recipe, view.device),
        )

    return build_once(file, options, build)


def prepare_method(
    recipe: SpeechTrainRecipe, model: SpeechLMForConditionalGeneration, anchor: AnchorData | None
) -> Method:
    """The recipe's method, prepared at the base's weights.

    Args:
        recipe: how to train.
        model: with its arm applied; what of the language model requires a gradient is what the method holds.
        anchor: old text, for methods that take it.

    Raises:
        MethodError: it does not fit in memory, or finds nothing among the trained tensors that it could act on.
    """
    if recipe.adapt.method is None:
        return PlainFineTuning()
    method = build_method(recipe.adapt.method)
    training = describe_training(recipe, model, anchor)
    refuse_if_too_large(method.forecast_bytes(forecast_sizes(training, None)), training.device)
    method.prepare(training)
    return method


def describe_training(
    recipe: SpeechTrainRecipe, model: SpeechLMForConditionalGeneration, anchor: AnchorData | None
) -> Training:
    """Stage B as a method sees it: the training of a causal language model, one block of old text per pass."""
    view = model.as_causal_lm()
    return Training(
        model=view,
        trained={name: parameter for name, parameter in view.named_parameters() if parameter.requires_grad},
        anchor=anchor,
        autocast=make_autocast(recipe, view.device),
        learning_rate=recipe.adapt.learning_rate,
        seed=recipe.seed,
    )


def make_autocast(recipe: SpeechTrainRecipe, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """The precision of the training's forward passes."""
    dtype = TORCH_DTYPES[recipe.dtype]
    return partial(torch.autocast, device.type, dtype, enabled=dtype != torch.float32)
