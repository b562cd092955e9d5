"""Methods under which only some weights of a tensor are free: PackNet's own weights, and the units of a search."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from oblong.methods.protocol import Method, Training


class OwnedWeights(Method):
    """Owned weights do not move: momentum and weight decay would move them without a gradient, so they are put back."""

    def __init__(self) -> None:
        self._before: dict[str, Tensor] = {}

    @abstractmethod
    def find_owned(self, name: str) -> Tensor:
        """Which weights of a trained tensor are not free: bool, of its shape or broadcast to it, on its device."""

    def prepare(self, training: Training) -> None:
        """Remember the training."""
        self.training = training

    @torch.no_grad()
    def change_gradients(self) -> None:
        """No gradient where weights are owned."""
        for name, value in self.training.trained.items():
            if value.grad is not None:
                value.grad.masked_fill_(self.find_owned(name), 0.0)
                self._before[name] = value.detach().clone()

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Put owned weights back, which momentum and weight decay may have moved."""
        for name, before in self._before.items():
            value = self.training.trained[name]
            value.copy_(torch.where(self.find_owned(name), before, value))
        self._before = {}
