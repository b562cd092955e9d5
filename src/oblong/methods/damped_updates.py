"""Optimizer steps that are damped matrix by matrix, by what old data says about each linear layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oblong.errors import MethodError
from oblong.methods.base_model import widen
from oblong.methods.options import DampingOptions
from oblong.methods.protocol import Method, Training


class DampedUpdates(Method):
    """Damps the update of every trained matrix of a linear layer after each optimizer step; other tensors train freely.

    A subclass says what it measures and how it damps. Strength 0 leaves every step as it is, bit for bit.
    """

    def __init__(self, options: DampingOptions) -> None:
        self.options = options

    @abstractmethod
    def measure_layers(self, layers: Mapping[str, nn.Linear]) -> Collection[str]:
        """Measure the base's layers, named by their weights, on old data.

        Returns:
            The layers that will be damped; one that old data never reaches, such as an expert, is not.
        """

    @abstractmethod
    def damp(self, name: str, update: Tensor) -> Tensor:
        """The damped update of one matrix: m x n, at least float32."""

    def prepare(self, training: Training) -> None:
        """Measure the base's layers.

        Raises:
            MethodError: no trained tensor belongs to a linear layer.
        """
        self.training = training
        self._before: dict[str, Tensor] = {}
        layers = find_linear_layers(training.model, training.trained)
        if not layers:
            raise MethodError(
                f"{self.options.name} damps matrices of linear layers, and the Plan trains none: take another method"
            )
        self._damped: tuple[str, ...] = ()
        if self.options.strength > 0:
            self._damped = tuple(self.measure_layers(layers))

    def change_gradients(self) -> None:
        """Remember where the weights are before the step."""
        self._before = {name: self.training.trained[name].detach().clone() for name in self._damped}

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Damp the step."""
        for name, before in self._before.items():
            value = self.training.trained[name]
            wide = widen(before)
            value.copy_(wide + self.damp(name, widen(value.detach()) - wide))
        self._before = {}


def find_linear_layers(model: nn.Module, trained: Mapping[str, nn.Parameter]) -> dict[str, nn.Linear]:
    """The linear layers whose weight trains, by the weight's name; layers with a tied weight are left out."""
    readers: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            readers.setdefault(id(parameter), []).append(module)
    found = {name: readers.get(id(value), []) for name, value in trained.items()}
    return {
        name: modules[0]
        for name, modules in found.items()
        if len(modules) == 1 and isinstance(modules[0], nn.Linear) and modules[0].weight is trained[name]
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Eigen:
    """The eigendecomposition of a symmetric matrix that is not negative.

    Attributes:
        values: n, ascending, over their median; 0 where float32 cannot tell them from 0.
        vectors: n x n, in columns.
    """

    values: Tensor
    vectors: Tensor


@torch.no_grad()
def decompose(matrix: Tensor) -> Eigen:
    """Decompose in float64; the median is that of the eigenvalues that float32 can tell from zero."""
    values, vectors = torch.linalg.eigh(matrix.double())
    used = values > values[-1] * len(values) * torch.finfo(torch.float32).eps
    scale = values[used].median() if used.any() else torch.ones_like(values[0])
    return Eigen(values=torch.where(used, values, 0.0) / scale, vectors=vectors)
