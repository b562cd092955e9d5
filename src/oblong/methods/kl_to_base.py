"""KL to the base: what the model says about the new data may not move far from what the base said.

    L = L_new + strength * mean over predicted tokens of KL(p_base || p)        (forward; reverse: KL(p || p_base))

Source: the regulariser of RLHF as used in supervised fine-tuning ("SFT-KL"); forward KL on new-task inputs is what
predicts forgetting in Shenfeld, Pari and Agrawal 2025, "RL's Razor", arXiv 2509.04259.
"""

from __future__ import annotations

from torch import Tensor

from oblong.methods.base_model import BaseModel
from oblong.methods.options import KlToBaseOptions
from oblong.methods.protocol import Batch, Method, Sizes, Training
from oblong.methods.token_losses import compute_divergence, select_predicted


class KlToBase(Method):
    """Adds the mean divergence to the base's predictions; one more forward pass per micro-batch."""

    def __init__(self, options: KlToBaseOptions) -> None:
        self._options = options

    def prepare(self, training: Training) -> None:
        """Keep the base."""
        self._teacher = BaseModel(training.model, training.trained, training.autocast)

    def compute_extra_loss(self, batch: Batch, logits: Tensor, num_items: Tensor | float) -> Tensor:
        """Strength * sum of divergences / num_items."""
        student_NV, _ = select_predicted(logits, batch["labels"])
        teacher_NV, _ = select_predicted(self._teacher.compute_logits(batch), batch["labels"])
        pair = (teacher_NV, student_NV) if self._options.direction == "forward" else (student_NV, teacher_NV)
        return self._options.strength * compute_divergence(*pair).sum() / num_items

    def forecast_bytes(self, sizes: Sizes) -> int:
        """theta*, and copies of the logits: see `forecast_distillation_bytes`."""
        return 4 * sizes.num_trained + forecast_distillation_bytes(sizes)


def forecast_distillation_bytes(sizes: Sizes) -> int:
    """Both models' logits, log-probabilities and their product, with the gradients of the student's: 8 copies."""
    return 8 * sizes.logits_bytes
