"""Losses over predicted tokens: who predicts what, how far from the base, and means that survive accumulation."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

IGNORED_LABEL: Final = -100


def mask_predicted(labels_BT: Tensor) -> Tensor:
    """Which positions predict a token that counts: position t predicts label t + 1. Returns batch x length, bool."""
    next_BT = functional.pad(labels_BT[:, 1:], (0, 1), value=IGNORED_LABEL)
    return next_BT != IGNORED_LABEL


def select_predicted(logits_BTV: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of positions that predict a token that counts, and those tokens.

    Padding and prompts, whose labels are -100, are left out.

    Returns:
        Logits, num_tokens x vocabulary, float32; labels, num_tokens, int64.
    """
    mask_BT = mask_predicted(labels_BT)
    next_BT = functional.pad(labels_BT[:, 1:], (0, 1), value=IGNORED_LABEL)
    return logits_BTV[mask_BT].float(), next_BT[mask_BT].to(logits_BTV.device)


def compute_token_losses(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Cross-entropy of each token: num_tokens, nats."""
    return functional.cross_entropy(logits_NV, labels_N, reduction="none")


def compute_divergence(teacher_NV: Tensor, student_NV: Tensor) -> Tensor:
    """KL(teacher || student) of each token, from logits or log-probabilities: num_tokens, nats.

    sum_v p_v (ln p_v - ln q_v); terms with p_v = 0 are zero, also where both are excluded with logits of -inf.
    """
    log_p_NV = torch.log_softmax(teacher_NV, dim=-1)
    log_q_NV = torch.log_softmax(student_NV, dim=-1)
    excluded_NV = torch.isneginf(log_p_NV)
    difference_NV = (log_p_NV - log_q_NV).masked_fill(excluded_NV, 0.0)
    return (log_p_NV.exp() * difference_NV).sum(dim=-1)


def weigh_tokens(weights_N: Tensor, losses_N: Tensor, num_items: Tensor | float) -> Tensor:
    """What has to be added to a mean of losses to make it a weighted one.

    sum_i (w_i - 1) loss_i / num_items: exactly zero, with zero gradient, where every weight is 1.
    """
    return ((weights_N.detach() - 1.0) * losses_N).sum() / num_items
