"""Stretches of what the encoder heard are hidden while training, so that few utterances are not learned by heart.

Source: SpecAugment, Park et al. 2019, arXiv 1904.08779, as transformers does it on hidden states for wav2vec 2.0 and
Whisper: spans start at random, and may overlap. Here on the frozen encoder's output, so that cached features serve; a
hidden frame becomes the utterance's mean frame, where SpecAugment takes the mean of the spectrogram.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from oblong.corpora.speech import BatchPosition
from oblong.speech.training.batches import SpeechBatch
from oblong.speech.training.processes import Processes
from oblong.speech.training.recipe import MaskingRecipe


def mask_batch(
    batch: SpeechBatch, recipe: MaskingRecipe, position: BatchPosition, *, seed: int, processes: Processes
) -> SpeechBatch:
    """The same utterances with hidden stretches; what is hidden follows from the arguments alone.

    Args:
        batch: this process's share.
        recipe: how much is hidden.
        position: of the batch in the training, so that each epoch hides other stretches.
        seed: of the run.
        processes: which rows of the whole batch the share has.
    """
    rows = range(processes.rank, batch.num_utterances, processes.count)
    generators = (np.random.default_rng([seed, position.epoch, position.batch, row]) for row in rows)
    # A process without a share of its own computes another's for nothing.
    pairs = zip(batch.frames, generators, strict=False)
    masked = [mask_frames(frames, recipe, generator) for frames, generator in pairs]
    return replace(batch, frames=(*masked, *batch.frames[len(masked) :]))


def mask_frames(frames_TD: torch.Tensor, recipe: MaskingRecipe, generator: np.random.Generator) -> torch.Tensor:
    """One utterance with hidden spans of frames and of features, (T, D), its dtype kept.

    Args:
        frames_TD: what the encoder heard; not changed.
        recipe: how much is hidden.
        generator: draws the spans.
    """
    num_frames, width = frames_TD.shape
    is_hidden_T = draw_spans(num_frames, recipe.time_share, recipe.time_length, generator)
    is_hidden_D = draw_spans(width, recipe.feature_share, recipe.feature_length, generator)
    is_hidden_TD = torch.from_numpy(is_hidden_T[:, None] | is_hidden_D[None, :]).to(frames_TD.device)
    return torch.where(is_hidden_TD, frames_TD.float().mean(0).to(frames_TD.dtype), frames_TD)


def draw_spans(size: int, share: float, length: int, generator: np.random.Generator) -> np.ndarray:
    """Which of `size` places are hidden, (size,), bool: about `share` of them, in spans of `length`.

    The number of spans is share * size / length, rounded up or down at random so that its mean is exact. Spans that
    overlap hide less; one is never longer than the whole.
    """
    is_hidden = np.zeros(size, dtype=bool)
    span = min(length, size)
    num_spans = int(share * size / span + generator.random())
    for start in generator.integers(0, size - span + 1, num_spans):
        is_hidden[start : start + span] = True
    return is_hidden
