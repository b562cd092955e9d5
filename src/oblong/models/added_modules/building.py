"""Added modules from what a delta checkpoint says of them, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from oblong.checkpoints.delta import Delta, digest_tensor
from oblong.errors import MethodError, PlanMismatchError
from oblong.models.added_modules.attached import AddedModules
from oblong.models.added_modules.columns import Columns
from oblong.models.added_modules.experts import Experts
from oblong.records import ModulesManifest
from oblong.records.run import ModulesKind, Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleTensors:
    """Added modules as a delta checkpoint holds them."""

    manifest: ModulesManifest
    tensors: Mapping[str, Tensor]


def build_added(model: Any, kind: ModulesKind, *, routing: Routing, targets: tuple[str, ...] = ()) -> AddedModules:
    """Modules without any task yet, not attached.

    Raises:
        MethodError: the model has no layers for them.
    """
    if kind == "columns":
        return Columns(model, routing=routing)
    return Experts(model, targets=targets, routing=routing)


def describe_added(added: AddedModules) -> ModuleTensors:
    """What has to be written down of modules as they are now."""
    tensors = {name: value.detach().cpu().clone() for name, value in added.collect_tensors().items()}
    manifest = ModulesManifest(
        kind=added.kind,
        routing=added.routing,
        tasks=tuple(added.tasks),
        ranks=tuple(added.ranks),
        targets=added.targets,
        tensors={name: digest_tensor(value) for name, value in tensors.items()},
    )
    return ModuleTensors(manifest=manifest, tensors=tensors)


def attach_described(model: Any, delta: Delta) -> AddedModules | None:
    """Put a delta checkpoint's modules onto its base, all frozen; None if it has none.

    Raises:
        PlanMismatchError: they were made for another model.
    """
    described = delta.manifest.modules
    if described is None:
        return None
    try:
        added = build_added(model, described.kind, routing=described.routing, targets=described.targets)
        for task, rank in zip(described.tasks, described.ranks, strict=True):
            added.add(task, rank=rank)
        added.load_tensors(delta.modules)
    except MethodError as error:
        raise PlanMismatchError(f"the delta checkpoint was made for another model: {error}") from error
    added.requires_grad_(False)
    added.eval()
    added.attach()
    return added
