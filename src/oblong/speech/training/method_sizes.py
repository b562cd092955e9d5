"""What a method's extra memory and old text amount to in a speech training."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from oblong.methods.protocol import Sizes
from oblong.methods.registry import InSpeech
from oblong.speech.training.method_fit import find_use
from oblong.speech.training.recipe import SpeechTrainRecipe

TRANSCRIPT_TOKENS: Final = 64  # of an utterance, its end of turn included; an estimate


def complete_sizes(sizes: Sizes, recipe: SpeechTrainRecipe) -> Sizes:
    """Sizes with the tokens of a pass whose predictions the method looks at: transcripts, or one block of old text."""
    use = find_use(recipe.adapt.method, recipe.adapt.anchor)
    if use is InSpeech.TENSORS:
        return sizes
    if use is InSpeech.TRANSCRIPTS:
        num_utterances = recipe.batch.max_utterances
        return replace(sizes, num_tokens=num_utterances * TRANSCRIPT_TOKENS, batch_size=num_utterances)
    return replace(sizes, num_tokens=recipe.adapt.block_tokens, batch_size=1)


def count_old_tokens(recipe: SpeechTrainRecipe) -> int:
    """Tokens of old text that a step learns or compares beside the largest batch of speech."""
    method = recipe.adapt.method
    use = find_use(method, recipe.adapt.anchor)
    if method is not None and use is InSpeech.REPLAY:
        return math.ceil(method.strength * recipe.batch.max_utterances) * recipe.adapt.block_tokens
    return recipe.adapt.anchor_blocks * recipe.adapt.block_tokens if use is InSpeech.COMPARISON else 0
