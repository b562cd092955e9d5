"""Mask-the-Target: the base's preferences among all tokens but the right one are kept.

    L = L_new + strength * mean over predicted tokens of KL(q_base || q),   q = p without the label, renormalised

Source: Xu, Garg, Saratchandran and Lucey 2026, arXiv 2605.29498. The label's probability is free to rise: unlike plain
KL to the base, the term does not work against the cross-entropy. The direction is not in the abstract; forward is ours.
"""

from __future__ import annotations

from torch import Tensor

from oblong.methods.base_model import BaseModel
from oblong.methods.kl_to_base import forecast_distillation_bytes
from oblong.methods.options import MaskTheTargetOptions
from oblong.methods.protocol import Batch, Method, Sizes, Training
from oblong.methods.token_losses import compute_divergence, select_predicted


class MaskTheTarget(Method):
    """Adds the divergence over the non-target vocabulary; one more forward pass per micro-batch."""

    def __init__(self, options: MaskTheTargetOptions) -> None:
        self._options = options

    def prepare(self, training: Training) -> None:
        """Keep the base."""
        self._teacher = BaseModel(training.model, training.trained, training.autocast)

    def compute_extra_loss(self, batch: Batch, logits: Tensor, num_items: Tensor | float) -> Tensor:
        """Strength * sum of divergences / num_items."""
        student_NV, labels_N = select_predicted(logits, batch["labels"])
        teacher_NV, _ = select_predicted(self._teacher.compute_logits(batch), batch["labels"])
        divergence_N = compute_divergence(exclude(teacher_NV, labels_N), exclude(student_NV, labels_N))
        return self._options.strength * divergence_N.sum() / num_items

    def forecast_bytes(self, sizes: Sizes) -> int:
        """theta*, copies of the logits, and both models' masked logits."""
        return 4 * sizes.num_trained + forecast_distillation_bytes(sizes) + 2 * sizes.logits_bytes


def exclude(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Logits with the label's at minus infinity, so that a softmax renormalises over the other tokens."""
    return logits_NV.scatter(1, labels_N.unsqueeze(1), float("-inf"))
