"""The loss of old data and its gradient, at the weights of the moment."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from oblong.methods.base_model import evaluation_mode
from oblong.methods.protocol import Training
from oblong.methods.token_losses import compute_token_losses, select_predicted

Gradients = dict[str, Tensor]


def compute_anchor_loss(training: Training, blocks_NT: Tensor) -> Tensor:
    """Mean loss of blocks of old data, nats per token, without dropout; num_blocks x sequence_length token ids."""
    blocks_NT = blocks_NT.to(training.device)
    with evaluation_mode(training.model), training.autocast():
        logits = training.model(input_ids=blocks_NT).logits
    return compute_token_losses(*select_predicted(logits, blocks_NT)).mean()


@torch.no_grad()
def measure_anchor_loss(training: Training, blocks_NT: Tensor) -> float:
    """The value of `compute_anchor_loss`, in passes as large as the training's."""
    parts = torch.split(blocks_NT, training.batch_size)
    return sum(len(part) * compute_anchor_loss(training, part).item() for part in parts) / len(blocks_NT)


def compute_anchor_gradients(training: Training, blocks_NT: Tensor) -> Gradients:
    """Gradient of `compute_anchor_loss` by parameter; `.grad` is left alone.

    No pass is larger than one of the training's, so that activations never need more memory than they do there.
    """
    total: Gradients = {}
    for part in torch.split(blocks_NT, training.batch_size):
        share = len(part) / len(blocks_NT)
        gradients = differentiate(compute_anchor_loss(training, part) * share, training)
        total = {name: value + total[name] if total else value for name, value in gradients.items()}
    return total


def differentiate(loss: Tensor, training: Training) -> Gradients:
    """Gradient of a scalar by trained parameter; zero where the scalar does not depend on it."""
    values = list(training.trained.values())
    gradients = torch.autograd.grad(loss, values, allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(training.trained.items(), gradients, strict=True)
    }


def take_moving(gradients: Gradients, new: Mapping[str, Tensor]) -> Gradients:
    """Old data's gradient by the tensors that have a new one: the others do not move in this step."""
    return {name: gradients[name] for name in new}


def compute_inner_product(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The inner product over all tensors together, in float64."""
    return float(sum((one[name].double() * other[name].double()).sum() for name in one))
