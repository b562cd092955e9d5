"""Experience replay: each step also sees old data; one cross-entropy over both.

Source: Chaudhry et al. 2019, "On tiny episodic memories"; for language models a share of one per cent to a third of old
text is usual. With `anchor: self_generated` this is data-free self-replay (arXiv 2505.13811; LAMOL 2020).

`strength` r is the number of old blocks per new one: after n new blocks floor(r n) old ones have been seen. Old blocks
are rows of the same micro-batches and count as tokens of the step, so the loss is the mean over all tokens, old and
new. What is replayed is the anchor alone: a buffer that stores what it has just been fed would replay its own replay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from oblong.errors import MethodError
from oblong.methods.options import ReplayOptions
from oblong.methods.protocol import Batch, Method, Sizes, State, Training
from oblong.methods.token_losses import IGNORED_LABEL

PADDING: Final = {"input_ids": 0, "labels": IGNORED_LABEL, "attention_mask": 0}


class ExperienceReplay(Method):
    """Adds old blocks to every step."""

    whole_tensors = False

    def __init__(self, options: ReplayOptions) -> None:
        self._options = options
        self._num_new = 0
        self._step = 0

    def prepare(self, training: Training) -> None:
        """Remember the anchor."""
        self._training = training

    def extend_batches(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """The new micro-batches with old blocks appended to them, spread evenly."""
        blocks = self.draw_blocks([len(batch["input_ids"]) for batch in batches])
        if not any(map(len, blocks)):
            return batches
        return [append_blocks(batch, old_NT) for batch, old_NT in zip(batches, blocks, strict=True)]

    def draw_blocks(self, nums_new: Sequence[int]) -> Sequence[Tensor]:
        """The old blocks of one step, for a training that does not take them as rows of its batches.

        Args:
            nums_new: new sequences of each micro-batch.

        Returns:
            For each micro-batch num_old x sequence_length token ids, int64.
        """
        counts = [self._count_old(num_new) for num_new in nums_new]
        self._step += 1
        if not sum(counts):
            return [torch.empty(0, 0, dtype=torch.int64)] * len(counts)
        drawn_NT = self._training.old_data.draw(sum(counts), seed=self._training.seed, step=self._step)
        return torch.split(drawn_NT, counts)

    def state_dict(self) -> dict[str, int]:
        """How far the stream has come."""
        return {"num_new": self._num_new, "step": self._step}

    def load_state_dict(self, state: State) -> None:
        """Go on with the stream."""
        self._num_new, self._step = state["num_new"], state["step"]

    def forecast_bytes(self, sizes: Sizes) -> int:
        """The old rows' logits, log-probabilities and gradients, and what else they keep for the backward pass."""
        num_rows = math.ceil(self._options.strength * sizes.batch_size)
        return (4 * sizes.logits_bytes + sizes.activation_bytes) * num_rows // sizes.batch_size

    def _count_old(self, num_new: int) -> int:
        before = math.floor(self._num_new * self._options.strength)
        self._num_new += num_new
        return math.floor(self._num_new * self._options.strength) - before


def append_blocks(batch: Batch, blocks_NT: Tensor) -> Batch:
    """A micro-batch with blocks of old text as further rows; shorter rows are padded on the right.

    Raises:
        MethodError: the batch has fields that plain text lacks.
    """
    if not len(blocks_NT):
        return batch
    foreign = sorted(batch.keys() - PADDING.keys())
    if foreign:
        raise MethodError(
            f"replay cannot add text to batches with {', '.join(foreign)}: give input_ids, labels and attention_mask"
        )
    old: Mapping[str, Tensor] = {"input_ids": blocks_NT, "labels": blocks_NT}
    ragged = batch["input_ids"].shape[1] != blocks_NT.shape[1]
    if ragged or "attention_mask" in batch:
        old = {**old, "attention_mask": torch.ones_like(blocks_NT)}
        batch = {"attention_mask": torch.ones_like(batch["input_ids"]), **batch}
    return {name: _stack_rows(batch[name], old[name].to(batch[name].device), PADDING[name]) for name in batch}


def _stack_rows(one: Tensor, other: Tensor, padding: int) -> Tensor:
    length = max(one.shape[1], other.shape[1])
    rows = [functional.pad(part, (0, length - part.shape[1]), value=padding) for part in (one, other)]
    return torch.cat([rows[0], rows[1].to(rows[0].dtype)])
