"""Selective token masking: tokens that surprise the base are not learned.

    labels_t = -100   where   p_base(label_t | x_<t) < 1 / perplexity

Source: Wu et al. 2025, "Mitigating forgetting in LLM fine-tuning via low-perplexity token learning", arXiv 2501.14315
(threshold 2.5). The mean is over the tokens that are left, as with any label of -100. A micro-batch keeps at least its
least surprising token. `strength` below 1 drops a random share of the surprising tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from oblong.methods.base_model import BaseModel
from oblong.methods.options import StmOptions
from oblong.methods.protocol import Batch, Method, Sizes, State, Training
from oblong.methods.token_losses import IGNORED_LABEL, compute_token_losses, mask_predicted, select_predicted


class SelectiveTokenMasking(Method):
    """Removes the labels of surprising tokens; one more forward pass per micro-batch."""

    def __init__(self, options: StmOptions) -> None:
        self._options = options
        self._step = 0

    def prepare(self, training: Training) -> None:
        """Keep the base."""
        self._training = training
        self._teacher = BaseModel(training.model, training.trained, training.autocast)

    def extend_batches(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """The same batches with labels masked."""
        self._step += 1
        generator = torch.Generator().manual_seed(self._training.seed * 1_000_003 + self._step)
        return [{**batch, "labels": self._mask_labels(batch, generator)} for batch in batches]

    def state_dict(self) -> State:
        """The number of steps, which the random share depends on."""
        return {"step": self._step}

    def load_state_dict(self, state: State) -> None:
        """Go on from a step."""
        self._step = state["step"]

    def forecast_bytes(self, sizes: Sizes) -> int:
        """theta*, and the base's logits with their log-probabilities, gone before the training's own are made."""
        return 4 * sizes.num_trained

    def _mask_labels(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Labels, batch x sequence_length, on the batch's own device."""
        device = self._training.device
        moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        losses_N = compute_token_losses(*select_predicted(self._teacher.compute_logits(moved), moved["labels"])).cpu()
        surprising_N = losses_N > math.log(self._options.perplexity)
        if len(losses_N):
            surprising_N[losses_N.argmin()] = False
        dropped_N = surprising_N & (torch.rand(len(losses_N), generator=generator) < self._options.strength)
        labels_BT: Tensor = batch["labels"].clone()
        rows_N, places_N = mask_predicted(labels_BT).nonzero(as_tuple=True)
        dropped_N = dropped_N.to(labels_BT.device)
        labels_BT[rows_N[dropped_N], places_N[dropped_N] + 1] = IGNORED_LABEL
        return labels_BT
