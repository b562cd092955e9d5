"""From a Plan's tensors to linear layers with adapters and back: what LoRA and OSF share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from oblong.errors import PlanMismatchError
from oblong.models.stored_tensors import StoredTensors
from oblong.tuning.adapters.lora import ADAPTER, remove_adapters
from oblong.tuning.adapters.protocol import Adapter
from oblong.tuning.apply import AppliedPlan, count_trainable

MAX_NAMES_SHOWN: Final = 3


class AdaptedLayers(Adapter):
    """Linear layers under PEFT's layers, whose update has the shape of the weight.

    Args:
        frozen: the model with its Plan, nothing of it training.
        stored: the model's file.
        feature: the adapter's name, for messages.

    Raises:
        PlanMismatchError: a tensor of the Plan is not the weight of a linear layer.
    """

    def __init__(self, frozen: AppliedPlan, stored: StoredTensors, *, feature: str) -> None:
        self._frozen = frozen
        self._stored = stored
        self._paths = find_linear_paths(frozen.model, frozen.trained, feature=feature)
        self._layers: Mapping[str, Any] = {}

    def fold(self) -> AppliedPlan:
        """Base + update in the Plan's tensors, rounded once, to the file's dtype, and plain linear layers."""
        for name, parameter in self._frozen.trained.items():
            parameter.data = self._compute_tuned(name).to(parameter.device)
        remove_adapters(self._frozen.model, self._layers.items())
        return self._frozen

    @contextmanager
    def as_finished(self, dtype: torch.dtype) -> Iterator[None]:
        """Inside the block the model is plain, with the update in its weights."""
        model, planned = self._frozen.model, self._frozen.trained
        base = {name: parameter.data for name, parameter in planned.items()}
        try:
            for path, layer in self._layers.items():
                model.set_submodule(path, layer.get_base_layer())
            for name, parameter in planned.items():
                parameter.data = self._compute_tuned(name).to(parameter.device, dtype)
            yield
        finally:
            for name, parameter in planned.items():
                parameter.data = base[name]
            for path, layer in self._layers.items():
                model.set_submodule(path, layer)

    def _adapt(self, layers: Mapping[str, Any], trained: Mapping[str, nn.Parameter]) -> AppliedPlan:
        """Note which layers were put in, and what the loop trains in place of the Plan's tensors."""
        self._layers = layers
        return replace(self._frozen, trained=trained, num_trainable=count_trainable(self._frozen.model))

    @torch.no_grad()
    def _compute_tuned(self, name: str) -> Tensor:
        """The file's values plus the update, in the file's dtype, on the CPU."""
        base = self._stored.read(name)
        update = self._layers[self._paths[name]].get_delta_weight(ADAPTER).to("cpu", torch.float32)
        # An update of zero leaves every bit as it was, the sign of a negative zero included.
        return torch.where(update == 0, base, (base.to(torch.float32) + update).to(base.dtype))


def find_linear_paths(model: PreTrainedModel, planned: Mapping[str, nn.Parameter], *, feature: str) -> dict[str, str]:
    """The path of the linear layer whose weight each planned tensor is, by tensor name.

    Args:
        model: without adapters.
        planned: parameters by tensor name.
        feature: who asks, for the message.

    Raises:
        PlanMismatchError: a tensor is the weight of no linear layer, or of one that shares it with another module.
    """
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((path, module))
    paths = {}
    for name, parameter in planned.items():
        path, module = owners[id(parameter)][0]
        if len(owners[id(parameter)]) == 1 and isinstance(module, nn.Linear) and module.weight is parameter:
            paths[name] = path
    if misfits := sorted(planned.keys() - paths.keys()):
        rest = len(misfits) - MAX_NAMES_SHOWN
        shown = ", ".join(misfits[:MAX_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
        raise PlanMismatchError(
            f"{feature} adapts the weights of linear layers of their own, which these are not: {shown}. Name others "
            "in targets, or leave these out of the Plan"
        )
    return paths
