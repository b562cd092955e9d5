"""From a Plan's tensors to linear layers and back: what LoRA and OSF share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from oblong.errors import PlanMismatchError
from oblong.models.stored_tensors import StoredTensors
from oblong.tuning.apply import AppliedPlan, count_trainable

MAX_NAMES_SHOWN = 3


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


def adapt_trained(model: PreTrainedModel, applied: AppliedPlan, trained: Mapping[str, nn.Parameter]) -> AppliedPlan:
    """What the loop trains, where that is an adapter's parameters and not the Plan's tensors."""
    return replace(applied, model=model, trained=trained, num_trainable=count_trainable(model))


@torch.no_grad()
def fold_updates(
    planned: Mapping[str, nn.Parameter], stored: StoredTensors, compute_update: Callable[[str], Tensor]
) -> None:
    """Set each planned parameter to the file's values plus an update, rounded once, to the file's dtype.

    Args:
        planned: parameters by tensor name.
        stored: the file.
        compute_update: the update of a tensor, float32, of its shape.
    """
    for name, parameter in planned.items():
        base = stored.read(name)
        update = compute_update(name).to("cpu", torch.float32)
        tuned = (base.to(torch.float32) + update).to(base.dtype)
        # An update of zero leaves every bit as it was, the sign of a negative zero included.
        parameter.data = torch.where(update == 0, base, tuned).to(parameter.device)
