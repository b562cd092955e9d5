"""What SpecAugment hides, and that it follows from the seed and the place in the training alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from oblong.corpora.speech import BatchPosition
from oblong.speech.training.batches import SpeechBatch
from oblong.speech.training.masking import draw_spans, mask_batch, mask_frames
from oblong.speech.training.processes import ALONE, Processes
from oblong.speech.training.recipe import MaskingRecipe

HALF = MaskingRecipe(time_share=0.5, time_length=3, feature_share=0.25, feature_length=2)
FIRST = BatchPosition(0, 0)


def make_batch(num_utterances: int = 4, *, rows: slice = slice(None)) -> SpeechBatch:
    """Utterances of other lengths and other frames, whole or the share of a process."""
    generator = torch.Generator().manual_seed(3)
    frames = [torch.randn(20 + index, 8, generator=generator).bfloat16() for index in range(num_utterances)]
    tokens = torch.zeros(num_utterances, 1, dtype=torch.int64)
    return SpeechBatch(
        input_ids=tokens,
        attention_mask=tokens,
        labels=tokens,
        frames=tuple(frames[rows]),
        num_labels=1,
        num_tokens=1,
        num_utterances=num_utterances,
    )


def test_as_much_is_hidden_as_was_asked_for_in_whole_spans() -> None:
    generator = np.random.default_rng(0)
    drawn = np.array([draw_spans(1000, 0.1, 10, generator) for _ in range(400)])
    # Spans overlap: a place is missed by each of ten spans with probability 1 - 10 / 991, but at the ends.
    assert drawn.mean() == pytest.approx(1 - (1 - 10 / 991) ** 10, rel=0.03)
    edges = np.diff(np.pad(drawn, ((0, 0), (1, 1))).astype(int), axis=1)
    lengths = np.flatnonzero(edges.ravel() == -1) - np.flatnonzero(edges.ravel() == 1)
    assert lengths.min() == 10


@pytest.mark.parametrize(("size", "share"), [(2, 0.5), (1, 0.9), (7, 0.0)])
def test_short_utterances_and_no_share_are_no_mistake(size: int, share: float) -> None:
    hidden = draw_spans(size, share, 5, np.random.default_rng(1))
    assert hidden.shape == (size,)
    assert share > 0 or not hidden.any()


def test_the_mean_of_numbers_of_spans_is_exact() -> None:
    generator = np.random.default_rng(2)
    starts = [draw_spans(5, 0.3, 1, generator).sum() for _ in range(4000)]
    # 1.5 spans on average; two fall on one another once in five.
    assert np.mean(starts) == pytest.approx(0.5 * 1 + 0.5 * (2 - 1 / 5), abs=0.03)


def test_hidden_frames_are_the_mean_and_the_others_as_they_were() -> None:
    frames = make_batch(1).frames[0]
    masked = mask_frames(frames, HALF, np.random.default_rng(4))
    mean = frames.float().mean(0).bfloat16().expand_as(frames)
    is_hidden = masked != frames
    assert 0 < is_hidden.sum() < is_hidden.numel()
    assert torch.equal(masked[is_hidden], mean[is_hidden])
    assert masked.dtype == frames.dtype
    # Whole frames, and whole features.
    rows, columns = is_hidden.all(1), is_hidden.all(0)
    assert torch.equal(is_hidden, rows[:, None] | columns[None, :])
    assert rows.any()
    assert columns.any()


def test_every_batch_epoch_and_seed_hides_something_else_and_always_the_same() -> None:
    batch = make_batch()
    places = [(FIRST, 0), (BatchPosition(0, 1), 0), (BatchPosition(1, 0), 0), (FIRST, 1)]
    made = [mask_batch(batch, HALF, position, seed=seed, processes=ALONE) for position, seed in places]
    again = [mask_batch(batch, HALF, position, seed=seed, processes=ALONE) for position, seed in places]
    for one, other in zip(made, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.frames, other.frames, strict=True))
    for index, one in enumerate(made):
        for other in made[index + 1 :]:
            assert not torch.equal(one.frames[0], other.frames[0])


def test_processes_hide_together_what_one_hides_alone() -> None:
    whole = mask_batch(make_batch(5), HALF, FIRST, seed=0, processes=ALONE).frames
    for rank in range(2):
        share = make_batch(5, rows=slice(rank, None, 2))
        masked = mask_batch(share, HALF, FIRST, seed=0, processes=Processes(rank=rank, count=2)).frames
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(masked, whole[rank::2], strict=True))


def test_a_process_without_a_share_keeps_the_frames_that_it_computes_for_nothing() -> None:
    idle = replace(make_batch(1), weight=0.0)
    masked = mask_batch(idle, HALF, FIRST, seed=0, processes=Processes(rank=3, count=4))
    assert torch.equal(masked.frames[0], idle.frames[0])
