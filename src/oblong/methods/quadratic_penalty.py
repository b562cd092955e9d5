"""A quadratic penalty on the distance from the base: what L2-SP, EWC, MAS and SI share.

    penalty = weight sum_i Omega_i (theta_i - theta*_i)^2        gradient = 2 weight Omega (theta - theta*)

The gradient is added in closed form once per optimizer step, before clipping. Explicit steps are stable for
`2 learning_rate weight Omega < 2` only; the proximal update solves the same problem implicitly after the optimizer's
step and is stable for any weight:

    theta <- (theta + h Omega theta*) / (1 + h Omega),   h = 2 learning_rate weight

It is computed as theta + (theta* - theta) h Omega / (1 + h Omega): the quotient as it stands rounds a weight away from
theta* where h Omega is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from oblong.methods.base_model import copy_weights
from oblong.methods.options import QuadraticOptions
from oblong.methods.protocol import Method, Sizes, State, Training


class QuadraticPenalty(Method):
    """Pulls weights back to where they were when the method was prepared.

    Attributes:
        importance: Omega by parameter; None stands for 1 everywhere.
    """

    half: ClassVar[bool] = True
    """Whether the published penalty has a factor 1/2: weight = strength / 2, otherwise weight = strength."""
    has_importance: ClassVar[bool] = True

    def __init__(self, options: QuadraticOptions) -> None:
        self.importance: Mapping[str, Tensor] | None = None
        self._quadratic = options

    def prepare(self, training: Training) -> None:
        """Remember where the weights are."""
        self.training = training
        self.base = copy_weights(training.trained)

    @property
    def slope(self) -> float:
        """2 weight: the penalty's gradient is slope Omega (theta - theta*)."""
        return self._quadratic.strength * (1.0 if self.half else 2.0)

    def compute_penalty(self) -> float:
        """The penalty at the weights of the moment."""
        total = 0.0
        for name, parameter in self.training.trained.items():
            squared = (parameter.detach().double() - self.base[name].double()).square()
            total += float((squared * self._importance_of(name)).sum())
        return 0.5 * self.slope * total

    @torch.no_grad()
    def change_gradients(self) -> None:
        """Add the penalty's gradient."""
        if self._quadratic.update != "gradient":
            return
        for name, parameter in self.training.trained.items():
            if parameter.grad is not None:
                pull = (parameter - self.base[name]) * self._importance_of(name)
                parameter.grad.add_(pull.to(parameter.grad.dtype), alpha=self.slope)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the implicit step, if that was asked for."""
        if self._quadratic.update != "proximal":
            return
        rates = {id(value): group["lr"] for group in optimizer.param_groups for value in group["params"]}
        for name, parameter in self.training.trained.items():
            weight = self._importance_of(name) * (float(rates[id(parameter)]) * self.slope)
            parameter.copy_(parameter + (self.base[name] - parameter) * (weight / (1.0 + weight)))

    def state_dict(self) -> State:
        """The importance; the base's weights are in its file."""
        return {} if self.importance is None else {"importance": dict(self.importance)}

    def load_state_dict(self, state: State) -> None:
        """Go on with the importance that was measured."""
        self.importance = state.get("importance")

    def keep_for_next_task(self) -> State:
        """The importance; theta* are the weights that the next task starts from."""
        return QuadraticPenalty.state_dict(self)

    def start_next_task(self, state: State) -> None:
        """Go on with the importance of the tasks before."""
        if "importance" in state:
            device = self.training.device
            self.importance = {name: value.to(device) for name, value in state["importance"].items()}

    def forecast_bytes(self, sizes: Sizes) -> int:
        """theta*, Omega, and one tensor's difference at a time."""
        return 4 * (1 + self.has_importance) * sizes.num_trained + 8 * sizes.largest_matrix

    def _importance_of(self, name: str) -> Tensor:
        if self.importance is None:
            return torch.ones((), device=self.base[name].device)
        return self.importance[name]


def normalise(importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Divide by the mean over all elements, so that a strength means the same for every model; zeros stay zeros."""
    total = sum(float(value.double().sum()) for value in importance.values())
    mean = total / max(1, sum(value.numel() for value in importance.values()))
    return {name: value / mean if mean > 0 else value for name, value in importance.items()}
