"""Columns and experts: what trains beside the base, and stays there.

A new task gets a part of its own; those of earlier tasks, which come with the model, are frozen like the base. The
newest part answers all of the training, but for a router's experts, whose router trains along. Where a gate decides
later who answers, it is fitted before the first step: input embeddings are frozen, so it would be the same at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from oblong.checkpoints.delta import digest_tensor
from oblong.errors import MethodError, SelectionError, UserError, VerificationError
from oblong.methods import AnchorData
from oblong.models.added_modules import AddedModules, ModuleTensors, build_added, describe_added, find_added
from oblong.models.added_modules.attached import ATTRIBUTE, BASE
from oblong.models.stored_tensors import StoredTensors
from oblong.records.run import Routing
from oblong.tuning.adapters.planning import resolve_expert_targets
from oblong.tuning.adapters.protocol import Adapter
from oblong.tuning.adapters.recipe import AdapterRecipe
from oblong.tuning.apply import AppliedPlan, count_trainable


class BesideTheBase(Adapter):
    """A new task's column or expert on a frozen model, which may have those of earlier tasks.

    Args:
        frozen: the model, nothing of it training; the modules are added in place.
        recipe: `columns` or `experts`.
        stored: the base's file.
        task: name of what is going to be learned.
        has_anchor: old data will be given to `start`.
        seed: of the modules' weights and of a router's draws.

    Raises:
        SelectionError: the model has no layers for them.
        UserError: a gate is asked for that cannot be fitted.
    """

    def __init__(
        self,
        frozen: AppliedPlan,
        recipe: AdapterRecipe,
        *,
        stored: StoredTensors,
        task: str,
        has_anchor: bool,
        seed: int,
    ) -> None:
        self._frozen = frozen
        before = find_added(frozen.model)
        targets = resolve_expert_targets(recipe, stored)
        routing = choose_routing(recipe, before, has_anchor=has_anchor)
        if before is None:
            self._added = _attach_new(frozen.model, recipe, routing, targets)
        else:
            _refuse_other_modules(before, recipe, targets)
            before.route_by(routing)
            self._added = before
        self._older = {
            name: digest_tensor(value)
            for name, value in self._added.collect_tensors().items()
            if self._added.is_of_a_task(name)
        }
        self._number = self._added.add(task, rank=_get_rank(recipe), seed=(seed << 16) + len(self._added.tasks) + 1)
        self._added.train(frozen.model.training)
        self._added.told = BASE  # until `start`: old data may be generated before
        trained = {f"{ATTRIBUTE}.{name}": value for name, value in self._added.named_parameters()}
        moving = {
            name: value for name, value in trained.items() if value.requires_grad or not value.is_floating_point()
        }
        self.applied = replace(frozen, trained=moving, num_trainable=count_trainable(frozen.model))

    def describe(self) -> str:
        """Which part of what, how large, and who answers where no task is told."""
        added = self._added
        noun = added.kind.removesuffix("s")
        older = f" after {', '.join(added.tasks[:-1])}" if self._number > 1 else ""
        where = f" on {', '.join(added.targets)}" if added.targets else ""
        return (
            f"{noun} {self._number}{older}, rank {added.ranks[-1]}{where}, beside the base: "
            f"{self.applied.num_trainable:,} parameters; {ANSWERS[added.routing]}"
        )

    def start(self, blocks_NT: Tensor, anchor: AnchorData | None) -> None:
        """Fit the gate on old data, if it does not know the base yet, and on the task; let the newest part answer."""
        gate = self._added.gate
        if gate is not None:
            if gate.num_fitted == 0:
                if anchor is None:
                    raise ValueError("a gate needs old data")
                gate.add(anchor.blocks)
            gate.add(blocks_NT)
        self._added.told = None if self._has_router else self._number

    @contextmanager
    def as_finished(self, dtype: torch.dtype) -> Iterator[None]:
        """Inside the block nobody tells the task."""
        with self._added.telling(None):
            yield

    def fold(self) -> AppliedPlan:
        """The model with its own modules alone.

        Raises:
            VerificationError: something of an earlier task moved.
        """
        now = self._added.collect_tensors()
        moved = [name for name, digest in self._older.items() if digest_tensor(now[name]) != digest]
        if moved:
            raise VerificationError([f"added {name}: is of an earlier task, and moved" for name in moved])
        self._added.detach()
        return replace(self._frozen, trained={}, num_trainable=0)

    def describe_modules(self) -> ModuleTensors:
        """All tasks' modules."""
        return describe_added(self._added)

    @property
    def _has_router(self) -> bool:
        return self._added.routing in ("softmax", "gumbel")


ANSWERS: dict[Routing, str] = {
    "gate": "a gate chooses where the task is not told",
    "softmax": "a softmax router mixes base and experts where the task is not told",
    "gumbel": "a router chooses where the task is not told",
    "base": "the base answers where the task is not told",
}


def choose_routing(recipe: AdapterRecipe, before: AddedModules | None, *, has_anchor: bool) -> Routing:
    """Who decides where no task is told.

    Raises:
        UserError: a gate is asked for, and the run before had none.
    """
    if recipe.experts is not None:
        return recipe.experts.routing
    wanted = None if recipe.columns is None else recipe.columns.gate
    if before is None:
        return "gate" if (has_anchor if wanted is None else wanted) else "base"
    if wanted and before.gate is None:
        raise UserError(
            "after: that run has no gate, which must know the base and every task: leave gate out, or repeat that run "
            "with an anchor"
        )
    return "base" if wanted is False or before.gate is None else "gate"


def _attach_new(model: Any, recipe: AdapterRecipe, routing: Routing, targets: tuple[str, ...]) -> AddedModules:
    """Modules without any task yet.

    Raises:
        SelectionError: the model has no layers for them.
    """
    try:
        added = build_added(model, recipe.added_kind, routing=routing, targets=targets)
    except MethodError as error:
        raise SelectionError(f"adapter: {recipe.kind}: {error}") from error
    added.attach()
    return added


def _refuse_other_modules(before: AddedModules, recipe: AdapterRecipe, targets: tuple[str, ...]) -> None:
    """A sequence of tasks has modules of one sort.

    Raises:
        UserError: the run before has others.
    """
    routing = recipe.experts.routing if recipe.experts is not None else before.routing
    found, wanted = (before.kind, before.targets, before.routing), (recipe.kind, targets, routing)
    if found != wanted:
        raise UserError(
            f"after: that run has {_name_modules(*found)}, and this recipe asks for {_name_modules(*wanted)}: give "
            "both the same adapter (rank may differ)"
        )


def _name_modules(kind: str, targets: tuple[str, ...], routing: Routing) -> str:
    return kind if not targets else f"{kind} on {', '.join(targets)} with routing {routing}"


def _get_rank(recipe: AdapterRecipe) -> int:
    options = recipe.columns or recipe.experts
    if options is None:
        raise ValueError(f"adapter {recipe.kind} adds no modules")
    return options.rank
