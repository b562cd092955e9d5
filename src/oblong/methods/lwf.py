"""Learning without Forgetting: distillation from the model as it was, on the inputs of the new task.

    L = L_new + lambda * mean over predicted tokens of KL(p_base^(1/T) || p^(1/T)),   p^(1/T) renormalised

Source: Li and Hoiem 2016, Eq. 2-4. Their term is the cross-entropy of the softened distributions; the KL divergence is
that less the teacher's entropy, a constant: it has the same gradient and is zero at the first step. A language model
has no head per task, so the new task's inputs are distilled at the tokens that are trained on.
`times_squared_temperature` multiplies by T^2 as Hinton et al. 2015 do; the paper does not.
"""

from __future__ import annotations

from torch import Tensor

from oblong.methods.base_model import BaseModel
from oblong.methods.kl_to_base import forecast_distillation_bytes
from oblong.methods.options import LwfOptions
from oblong.methods.protocol import Batch, Method, Sizes, Training
from oblong.methods.token_losses import compute_divergence, select_predicted


class LearningWithoutForgetting(Method):
    """Adds the softened divergence to the base; one more forward pass per micro-batch."""

    def __init__(self, options: LwfOptions) -> None:
        self._options = options
        factor = options.temperature**2 if options.times_squared_temperature else 1.0
        self._weight = options.strength * factor

    def prepare(self, training: Training) -> None:
        """Keep the base."""
        self._teacher = BaseModel(training.model, training.trained, training.autocast)

    def compute_extra_loss(self, batch: Batch, logits: Tensor, num_items: Tensor | float) -> Tensor:
        """Lambda * sum of softened divergences / num_items."""
        student_NV, _ = select_predicted(logits, batch["labels"])
        teacher_NV, _ = select_predicted(self._teacher.compute_logits(batch), batch["labels"])
        temperature = self._options.temperature
        divergence_N = compute_divergence(teacher_NV / temperature, student_NV / temperature)
        return self._weight * divergence_N.sum() / num_items

    def forecast_bytes(self, sizes: Sizes) -> int:
        """theta*, copies of the logits, and both models' softened logits."""
        return 4 * sizes.num_trained + forecast_distillation_bytes(sizes) + 2 * sizes.logits_bytes
