"""A Plan applied to a model: its tensors train in float32, everything else is frozen, and nothing is left to chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import nn
from transformers import PreTrainedModel

from oblong.checkpoints.delta import digest_tensor
from oblong.errors import PlanMismatchError
from oblong.models.names import find_fused_parameter, match_parameters
from oblong.models.stored_tensors import StoredTensors
from oblong.records import Plan, PlannedTensor

MAX_PROBLEMS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedPlan:
    """A model that is ready to be tuned.

    Attributes:
        model: everything frozen but the Plan's tensors, which are float32.
        plan: what was applied.
        trained: the parameters that train, by the Plan's tensor names; those of an adapter by its own.
        num_trainable: elements that train; a tied tensor counts once.
        num_parameters: elements of the model; a tied tensor counts once.
    """

    model: PreTrainedModel
    plan: Plan
    trained: Mapping[str, nn.Parameter]
    num_trainable: int
    num_parameters: int


def apply_plan(
    model: PreTrainedModel, plan: Plan, *, stored: StoredTensors | None = None, allow_other_weights: bool = False
) -> AppliedPlan:
    """Freeze a model and make exactly the Plan's tensors trainable, in float32.

    Args:
        model: the model, in any floating-point dtype; changed in place.
        plan: which tensors train.
        stored: the model's file. With it, digests are those of the stored bytes and the float32 masters hold what the
            file holds, also where the model was loaded in a narrower dtype.
        allow_other_weights: accept weights whose digests differ from the Plan's; names and shapes must still fit.

    Raises:
        PlanMismatchError: a name matches nothing, a shape or digest differs, a tensor is not floating-point, or a
            tensor would train without being in the Plan. The model is untouched then.
    """
    frozen = freeze_to_plan(model, plan, stored=stored, allow_other_weights=allow_other_weights)
    for name, parameter in frozen.trained.items():
        _unfreeze(parameter, parameter.data if stored is None else stored.read(name))
    _check_trainable(model, frozen.trained)
    return replace(frozen, num_trainable=count_trainable(model))


def freeze_to_plan(
    model: PreTrainedModel, plan: Plan, *, stored: StoredTensors | None = None, allow_other_weights: bool = False
) -> AppliedPlan:
    """Prove that a Plan fits a model, and freeze the model whole: what `apply_plan` does before anything may train.

    Raises:
        PlanMismatchError: see `apply_plan`; the model is untouched then.
    """
    planned = _find_planned(model, plan, stored=stored, allow_other_weights=allow_other_weights)
    return freeze_whole(model, plan, planned)


def freeze_whole(model: PreTrainedModel, plan: Plan, planned: Mapping[str, nn.Parameter]) -> AppliedPlan:
    """Let nothing of a model train, for an adapter that puts something beside or on it.

    Args:
        model: changed in place.
        plan: what may change.
        planned: its parameters by tensor name.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return AppliedPlan(
        model=model,
        plan=plan,
        trained=planned,
        num_trainable=0,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def count_trainable(model: nn.Module) -> int:
    """Elements of the parameters that train; a tied tensor counts once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _find_planned(
    model: PreTrainedModel, plan: Plan, *, stored: StoredTensors | None, allow_other_weights: bool
) -> Mapping[str, nn.Parameter]:
    trained = match_parameters(model, [tensor.name for tensor in plan.tensors])
    if stored is not None:
        trained = {name: parameter for name, parameter in trained.items() if name in stored}
    problems = [
        problem for tensor in plan.tensors for problem in _find_misfits(model, tensor, trained.get(tensor.name))
    ]
    if not plan.tensors:
        problems = [f"the Plan {plan.name!r} names no tensor"]
    _refuse(problems, "the Plan does not fit this model", "scan this model and make a new Plan from that")
    _refuse(_find_stowaways(model, plan, stored, trained), "the Plan is incomplete", "add them to the Plan")
    if not allow_other_weights:
        _refuse(
            _find_other_weights(plan, stored, trained),
            "the Plan was made from other weights than this model's",
            "scan this model and make a new Plan, or set allow_other_weights (--allow-other-weights)",
        )
    return trained


def _find_misfits(model: PreTrainedModel, tensor: PlannedTensor, parameter: nn.Parameter | None) -> Iterator[str]:
    if parameter is None:
        yield f"{tensor.name}: {_explain_absence(model, tensor.name)}"
    elif tuple(parameter.shape) != tensor.shape:
        yield f"{tensor.name}: the model has shape {tuple(parameter.shape)}, the Plan {tensor.shape}"
    elif not parameter.dtype.is_floating_point:
        yield f"{tensor.name}: holds {parameter.dtype}, which cannot be trained; use an unquantised checkpoint"


def _explain_absence(model: PreTrainedModel, name: str) -> str:
    fused = find_fused_parameter(model, name)
    if fused is None:
        return "the model has no such tensor"
    return (
        f"transformers merges it with others into {fused} as it loads, so it cannot train alone; "
        "leave such tensors out with `oblong scan --exclude`"
    )


def _find_stowaways(
    model: PreTrainedModel, plan: Plan, stored: StoredTensors | None, trained: Mapping[str, nn.Parameter]
) -> Iterator[str]:
    """Stored tensors outside the Plan that are, in the model, the very parameter that a planned tensor is."""
    if stored is None:
        return
    owners = {id(parameter): name for name, parameter in trained.items()}
    others = [name for name in stored.names if name not in plan.tensor_names]
    for name, parameter in match_parameters(model, others).items():
        if id(parameter) in owners:
            yield f"{name}: tied to {owners[id(parameter)]}, so it would train as well"


def _find_other_weights(plan: Plan, stored: StoredTensors | None, trained: Mapping[str, nn.Parameter]) -> Iterator[str]:
    for tensor in plan.tensors:
        if tensor.digest is None:
            continue
        actual = digest_tensor(trained[tensor.name]) if stored is None else stored.digest(tensor.name)
        if actual != tensor.digest:
            yield f"{tensor.name}: the digest differs"


def _refuse(problems: Iterator[str] | Sequence[str], headline: str, remedy: str) -> None:
    found = list(problems)
    if not found:
        return
    shown = "".join(f"\n  {problem}" for problem in found[:MAX_PROBLEMS_SHOWN])
    rest = len(found) - MAX_PROBLEMS_SHOWN
    more = f"\n  ... and {rest} more" if rest > 0 else ""
    raise PlanMismatchError(f"{headline}:{shown}{more}\n{remedy}")


def _unfreeze(parameter: nn.Parameter, values: torch.Tensor) -> None:
    # Assigning .data keeps the parameter object, and with it every tie and module that refers to it.
    parameter.data = values.to(device=parameter.device, dtype=torch.float32, copy=True)
    parameter.requires_grad_(True)


def _check_trainable(model: PreTrainedModel, trained: Mapping[str, nn.Parameter]) -> None:
    planned = {id(parameter) for parameter in trained.values()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad != (id(parameter) in planned):
            raise PlanMismatchError(f"{name}: would {'' if parameter.requires_grad else 'not '}train, against the Plan")
