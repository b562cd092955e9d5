"""The Plan of an adapter: every stored tensor that it can change, read from the model's file without a Scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from oblong.checkpoints.base import Checkpoint, TensorInfo
from oblong.checkpoints.layout import describe
from oblong.checkpoints.roles import classify_role, find_layer
from oblong.errors import SelectionError
from oblong.models.stored_tensors import StoredTensors
from oblong.records import Budget, Plan, PlannedTensor, Provenance, Rule, Totals
from oblong.records.base import digest_bytes
from oblong.tuning.adapters.recipe import AdapterRecipe, Targets

# Attention and MLP; not the router, the embedding or the head, as in a Plan's default.
LINEAR_ROLES: Final = frozenset({"q", "k", "v", "o", "qkv", "gate", "up", "down", "gate_up"})
OUTER_ROLES: Final = frozenset({"embedding", "lm_head"})
NO_WEIGHTS: Final = frozenset({"buffer", "quantisation"})
# transformers fuses the experts of a mixture into one parameter as it loads, which is no linear layer.
EXPERT: Final = ".experts."

CRITERION: Final = "adapter"


def plan_adapter(adapter: AdapterRecipe, stored: StoredTensors, *, model: str, name: str | None = None) -> Plan:
    """List the tensors that an adapter can change, with their digests; none for one that stays beside the base.

    Args:
        adapter: which.
        stored: the model's file.
        model: as the user calls it.
        name: of the Plan; default: the adapter's kind.

    Raises:
        SelectionError: it can change none, or a target names nothing.
    """
    checkpoint = stored.checkpoint
    if adapter.adds_modules:
        return _plan_nothing(adapter, stored, model=model, name=name)
    chosen = [tensor for tensor in list_weights(checkpoint) if _make_filter(adapter)(tensor)]
    targeted = adapter.lora or adapter.osf
    if targeted is not None:
        _check_targets(targeted.targets, chosen, checkpoint)
    if not chosen:
        raise SelectionError(f"adapter: {adapter.kind} finds nothing to train in {model}")
    planned = tuple(_describe_tensor(tensor, stored, adapter) for tensor in chosen)
    num_parameters = sum(t.num_parameters for t in chosen if t.name not in checkpoint.ties)
    info = describe(checkpoint.source)
    return Plan(
        name=name or adapter.kind,
        model=model,
        layout_digest=info.layout_digest,
        scan_digest="",
        rule=Rule(
            criterion=CRITERION,
            order="lowest",
            within="model",
            budget=Budget(text=f"{num_parameters}p", unit="parameters", amount=num_parameters),
            include_ineligible=targeted is None,
        ),
        totals=Totals(
            num_tensors=len(planned),
            num_parameters=num_parameters,
            share=num_parameters / info.num_parameters,
            by_role=dict(sorted(Counter(tensor.role for tensor in planned).items())),
        ),
        tensors=planned,
        notes=("made from the model's file alone, without a Scan: every tensor that the adapter can change",),
        provenance=Provenance.here(),
    )


def _plan_nothing(adapter: AdapterRecipe, stored: StoredTensors, *, model: str, name: str | None) -> Plan:
    """A Plan without tensors; its note names the weights, so that a resumed run notices another base."""
    resolve_expert_targets(adapter, stored)
    weights = "".join(f"{tensor}={stored.digest(tensor)};" for tensor in stored.names)
    return Plan(
        name=name or adapter.kind,
        model=model,
        layout_digest=describe(stored.checkpoint.source).layout_digest,
        scan_digest="",
        rule=Rule(
            criterion=CRITERION,
            order="lowest",
            within="model",
            budget=Budget(text="0p", unit="parameters", amount=0),
        ),
        totals=Totals(num_tensors=0, num_parameters=0, share=0.0, by_role={}),
        tensors=(),
        notes=(
            f"the adapter {adapter.kind} trains modules beside the base, and no tensor of it",
            f"the base's weights together: {digest_bytes(weights.encode())}",
        ),
        provenance=Provenance.here(),
    )


def resolve_expert_targets(adapter: AdapterRecipe, stored: StoredTensors) -> tuple[str, ...]:
    """The ends of the names of the layers that get experts; none for another adapter.

    Raises:
        SelectionError: a target names nothing.
    """
    if adapter.experts is None:
        return ()
    targets = adapter.experts.targets
    linear = [tensor for tensor in list_weights(stored.checkpoint) if is_linear(tensor)]
    _check_targets(targets, linear, stored.checkpoint)
    if targets != "all-linear":
        return targets
    return tuple(sorted({_module(tensor.name).rpartition(".")[2] for tensor in linear}))


def list_weights(checkpoint: Checkpoint) -> Iterator[TensorInfo]:
    """Floating-point parameters in checkpoint order; no buffers, no empty tensors."""
    for tensor in checkpoint.tensors:
        if tensor.is_decodable and tensor.num_parameters > 0 and _role(tensor) not in NO_WEIGHTS:
            yield tensor


def _make_filter(adapter: AdapterRecipe) -> Callable[[TensorInfo], bool]:
    targeted = adapter.lora or adapter.osf
    if targeted is not None:
        targets = targeted.targets
        return lambda tensor: is_linear(tensor) and (targets == "all-linear" or _is_meant(tensor.name, targets))
    if adapter.lisa is not None:
        outer = adapter.lisa.embeddings
        return lambda tensor: outer or find_layer(tensor.name) is not None
    embeddings = adapter.full is not None and adapter.full.embeddings
    return lambda tensor: embeddings or _role(tensor) not in OUTER_ROLES


def is_linear(tensor: TensorInfo) -> bool:
    """Whether a tensor is, by its name and shape, the weight of a linear layer of attention or MLP."""
    return len(tensor.shape) == 2 and _role(tensor) in LINEAR_ROLES and EXPERT not in tensor.name


def _check_targets(targets: Targets, chosen: list[TensorInfo], checkpoint: Checkpoint) -> None:
    if targets == "all-linear":
        return
    missing = [target for target in targets if not any(_is_meant(tensor.name, (target,)) for tensor in chosen)]
    if missing:
        known = sorted({_module(t.name).rpartition(".")[2] for t in list_weights(checkpoint) if is_linear(t)})
        raise SelectionError(
            f"adapter: targets: no linear layer of attention or MLP is called {', '.join(map(repr, missing))}; this "
            f"model has {', '.join(known)}"
        )


def _describe_tensor(tensor: TensorInfo, stored: StoredTensors, adapter: AdapterRecipe) -> PlannedTensor:
    return PlannedTensor(
        name=tensor.name,
        role=_role(tensor),
        layer=find_layer(tensor.name),
        shape=tensor.shape,
        num_parameters=tensor.num_parameters,
        digest=stored.digest(tensor.name),
        value=None,
        measures={},
        reason=f"named by the adapter {adapter.kind}",
    )


def _is_meant(name: str, targets: tuple[str, ...]) -> bool:
    module = _module(name)
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _role(tensor: TensorInfo) -> str:
    return tensor.role or classify_role(tensor.name, len(tensor.shape))
