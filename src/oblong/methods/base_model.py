"""The base model as a teacher: the model that is being tuned, with the trained tensors as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class BaseModel:
    """The base, for the memory of the trained tensors alone: everything else is shared with the model.

    Args:
        model: the model, at the base's weights now.
        trained: the parameters that will train, by module name.
        autocast: the precision of the training's forward passes.
    """

    def __init__(
        self,
        model: nn.Module,
        trained: Mapping[str, nn.Parameter],
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._model = model
        self._autocast = autocast
        self.weights = {name: parameter.detach().clone() for name, parameter in trained.items()}

    @torch.no_grad()
    def compute_logits(self, batch: Mapping[str, Any]) -> Tensor:
        """What the base says: batch x sequence_length x vocabulary, float32, without dropout and without gradient."""
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "num_items_in_batch")}
        with evaluation_mode(self._model), self._autocast():
            output = torch.func.functional_call(self._model, self.weights, kwargs=inputs)
        logits: Tensor = output.logits.float()
        return logits


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No dropout inside the block; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def copy_weights(trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copies of parameters in at least float32, without gradient."""
    return {name: widen(parameter.detach()).clone() for name, parameter in trained.items()}


@torch.no_grad()
def load_weights(trained: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    """Put values into parameters."""
    for name, parameter in trained.items():
        parameter.copy_(weights[name])


@contextmanager
def restored_weights(trained: Mapping[str, nn.Parameter]) -> Iterator[dict[str, Tensor]]:
    """Whatever happens to the parameters inside the block, they are afterwards as before; yields those values."""
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    try:
        yield before
    finally:
        load_weights(trained, before)


def widen(tensor: Tensor) -> Tensor:
    """At least float32: float64 stays, everything narrower is converted."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
