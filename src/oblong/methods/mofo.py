"""MoFO: in each step only the weights with the largest momentum move.

    m, v as in Adam;   theta_i moves   iff   |m_i| is among the largest share alpha of its tensor

Source: Chen et al. 2025, "MoFO: momentum-filtered optimizer for mitigating forgetting in LLM fine-tuning", Alg. 1
(alpha 5 to 20 %); strength = 1 - alpha. Moments are updated for every weight. The others are put back after the step,
which undoes their weight decay as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oblong.errors import MethodError
from oblong.methods.options import MofoOptions
from oblong.methods.protocol import Method, Sizes, Training


class Mofo(Method):
    """Filters the step of any optimizer that keeps a first moment."""

    def __init__(self, options: MofoOptions) -> None:
        self._options = options
        self._before: dict[str, Tensor] = {}

    def prepare(self, training: Training) -> None:
        """Remember the trained parameters."""
        self._training = training

    def change_gradients(self) -> None:
        """Remember where the weights are before the step."""
        self._before = {name: value.detach().clone() for name, value in self._training.trained.items()}

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Put back what has little momentum.

        Raises:
            MethodError: the optimizer keeps no first moment.
        """
        for name, before in self._before.items():
            value = self._training.trained[name]
            if value.grad is None:
                continue
            if "exp_avg" not in optimizer.state[value]:
                raise MethodError("mofo filters by Adam's first moment, which this optimizer does not keep: use AdamW")
            moving = choose_largest(optimizer.state[value]["exp_avg"], 1.0 - self._options.strength)
            value.copy_(torch.where(moving, value, before))
        self._before = {}

    def forecast_bytes(self, sizes: Sizes) -> int:
        """The weights before a step, and the ranking of one tensor."""
        return 4 * sizes.num_trained + 16 * sizes.largest_matrix


def choose_largest(values: Tensor, share: float) -> Tensor:
    """Which max(1, round(share n)) elements are the largest in absolute value: bool, of the same shape."""
    count = max(1, round(share * values.numel()))
    chosen = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    chosen[values.abs().flatten().topk(count, sorted=False).indices] = True
    return chosen.view(values.shape)
