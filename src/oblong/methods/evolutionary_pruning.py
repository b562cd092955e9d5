"""Evolutionary pruning: the new task gets the feed-forward units that old text misses least; nothing else moves.

    before a task   a genetic algorithm (`evolution`) searches the groups of units whose silencing hurts old text least
    during it       only these units move: rows of gate and up, columns of down, as far as the Plan trains them
    told the task   units that later tasks were given are silent

With the freed units silent, the model answers after training what it answered before with them silent, bit for bit: so
the search measures in advance what their loss can cost, whatever is learned in them.

Source: Ludwig, "Pruning pre-trained models using evolutionary computation", where the units are deleted for good
(`feed_forward.prune`) and nothing is learned. To train them instead, in the manner of PackNet, is ours. `zero_freed`
starts from the pruned base: of each freed unit one matrix is set to zero, the one that reads it out (down, else up).
Zeros on both sides would leave no gradient to learn by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from oblong.errors import MethodError
from oblong.methods.anchor_losses import measure_anchor_loss
from oblong.methods.damped_updates import find_linear_layers
from oblong.methods.evolution import Evolution, evolve
from oblong.methods.feed_forward import FeedForward, find_feed_forward, mark_units, silence
from oblong.methods.options import EvolutionaryPruningOptions
from oblong.methods.owned_weights import OwnedWeights
from oblong.methods.protocol import Sizes, State, Training

BASE: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBlock:
    """A feed-forward block of which the Plan trains something.

    Attributes:
        block: its matrices.
        unit_axes: by trained tensor, the axis along which it has one row, column or number per unit.
        silencers: the trained tensors whose zeros silence a unit and leave it a gradient; empty where there are none.
    """

    block: FeedForward
    unit_axes: Mapping[str, int]
    silencers: tuple[str, ...]


class EvolutionaryPruning(OwnedWeights):
    """Used again for a next task, it gives that one groups of units that no task before was given.

    Attributes:
        owners: by feed-forward block the task that each of its groups was given to, int64, on the CPU; 0 is the base.
        task: the task that was given groups last, from 1; 0 before the first.
        report: loss of old text at the start of the task (`base`), with the best choice of groups silent (`silenced`),
            and with the best choice of each generation, nats per token.
    """

    def __init__(self, options: EvolutionaryPruningOptions) -> None:
        super().__init__()
        self._options = options
        self.owners: dict[str, Tensor] = {}
        self.task = BASE
        self.report: dict[str, float] = {}
        self._planned: tuple[PlannedBlock, ...] = ()
        self._owned: dict[str, Tensor] = {}

    def prepare(self, training: Training) -> None:
        """At first every unit is the base's.

        Raises:
            MethodError: the Plan trains no feed-forward matrix, a block has fewer units than groups, or freed units
                cannot be zeroed by what the Plan trains.
        """
        super().prepare(training)
        if self._options.strength == 0:
            return
        self._planned = find_planned_blocks(training)
        for planned in self._planned:
            self._check(planned)
            self.owners.setdefault(planned.block.name, torch.full((self._options.groups,), BASE))

    def measure(self) -> None:
        """Search for the units of the new task."""
        if self._options.strength == 0:
            return
        base = self._measure_loss()
        found = self._search()
        self.task += 1
        for planned, genes in zip(self._planned, found.best, strict=True):
            self.owners[planned.block.name][list(genes)] = self.task
        if self._options.zero_freed:
            self._zero_freed()
        generations = {f"generation {number}": loss for number, loss in enumerate(found.losses)}
        self.report = {"base": base, "silenced": found.losses[-1], **generations}
        self._mark_owned()

    def find_owned(self, name: str) -> Tensor:
        """All but the rows or columns of the task's units."""
        return self._owned[name]

    def change_gradients(self) -> None:
        """No gradient but the freed units'; tensors that have none are left out of the step."""
        if self._options.strength == 0:
            return
        for name in self.training.trained.keys() - self._owned.keys():
            self.training.trained[name].grad = None
        super().change_gradients()

    def state_dict(self) -> State:
        """Which task was given what, and what the search found."""
        return {"owners": self.owners, "task": self.task, "report": self.report}

    def load_state_dict(self, state: State) -> None:
        """Go on in the middle of a task, without another search."""
        self._take_over(state)
        self.report = state["report"]
        self._mark_owned()

    def keep_for_next_task(self) -> State:
        """Which task was given what."""
        return {"owners": self.owners, "task": self.task}

    def start_next_task(self, state: State) -> None:
        """What tasks before were given stays theirs.

        Raises:
            MethodError: they divided the units otherwise.
        """
        self._take_over(state)
        numbers = {len(owner) for owner in self.owners.values()} - {self._options.groups}
        if self._planned and numbers:
            raise MethodError(
                f"the tasks before divided the units of a block into {min(numbers)} groups, and this one would into "
                f"{self._options.groups}: give evolutionary_pruning the same groups in every task"
            )

    @property
    def reads_by_task(self) -> bool:
        """Where a task started from silent units, silencing them again gives an older task's model back."""
        return self._options.strength > 0 and self._options.zero_freed

    def as_told(self, task: int) -> AbstractContextManager[None]:
        """Inside the block the units that later tasks were given are silent; the first task learned is 0."""
        blocks = [planned.block for planned in self._planned]
        later = [(self.owners[block.name] > 1 + task).nonzero().flatten().tolist() for block in blocks]
        return silence(blocks, tuple(tuple(groups) for groups in later), self._options.groups)

    def forecast_bytes(self, sizes: Sizes) -> int:
        """The weights before a step, and the mending of one tensor."""
        return 4 * sizes.num_trained + 4 * sizes.largest_matrix

    def _check(self, planned: PlannedBlock) -> None:
        block, num_groups = planned.block, self._options.groups
        if block.num_units < num_groups:
            raise MethodError(
                f"{block.name} has {block.num_units} units, which cannot be divided into {num_groups} groups: lower "
                "the groups of evolutionary_pruning"
            )
        if self._options.zero_freed and not planned.silencers:
            raise MethodError(
                f"the Plan trains neither down_proj nor up_proj of {block.name} in a way that could silence its units: "
                "leave zero_freed out, or train down_proj too"
            )

    def _search(self) -> Evolution:
        """Find what the base misses least of what is still its own.

        Raises:
            MethodError: it has too little left.
        """
        open_groups = []
        for planned in self._planned:
            groups = (self.owners[planned.block.name] == BASE).nonzero().flatten().tolist()
            if len(groups) < self._options.deleted:
                raise MethodError(
                    f"{len(groups)} of the {self._options.groups} groups of units in {planned.block.name} are still "
                    f"the base's, and the task needs {self._options.deleted}: {self.task} tasks before were given the "
                    f"others; {advise_on_tasks(self.task + 1, self._options.groups)}"
                )
            open_groups.append(groups)
        options = self._options.describe_search(self.training.seed)
        blocks = [planned.block for planned in self._planned]
        return evolve(blocks, self._measure_loss, options, open_groups=open_groups)

    def _measure_loss(self) -> float:
        old_data, limit = self.training.old_data, self._options.blocks
        return measure_anchor_loss(self.training, old_data.blocks if limit is None else old_data.take(limit))

    def _mark_owned(self) -> None:
        """A mask for every tensor with units of the task, along its axis of units."""
        self._owned = {}
        for planned in self._planned:
            owned = ~self._mark_freed(planned)
            for name, axis in planned.unit_axes.items():
                value = self.training.trained[name]
                shape = [-1 if dimension == axis else 1 for dimension in range(value.ndim)]
                self._owned[name] = owned.to(value.device).view(shape)

    def _mark_freed(self, planned: PlannedBlock) -> Tensor:
        genes = (self.owners[planned.block.name] == self.task).nonzero().flatten().tolist()
        return mark_units(genes, planned.block.num_units, self._options.groups)

    @torch.no_grad()
    def _zero_freed(self) -> None:
        for planned in self._planned:
            units = self._mark_freed(planned).nonzero().flatten()
            for name in planned.silencers:
                value = self.training.trained[name]
                value.index_fill_(planned.unit_axes[name], units.to(value.device), 0.0)

    def _take_over(self, state: State) -> None:
        self.owners |= {name: owner.to("cpu", copy=True) for name, owner in state["owners"].items()}
        self.task = state["task"]


def find_planned_blocks(training: Training) -> tuple[PlannedBlock, ...]:
    """The feed-forward blocks that the Plan trains something of; matrices that are tied to others are left out.

    Raises:
        MethodError: there are none.
    """
    names = {id(layer.weight): name for name, layer in find_linear_layers(training.model, training.trained).items()}
    names |= {id(value): name for name, value in training.trained.items() if value.ndim == 1}
    found = []
    for block in find_feed_forward(training.model):
        axes = [(block.down.weight, 1), *((value, 0) for each in block.inputs for value in (each.weight, each.bias))]
        planned = {names[id(value)]: axis for value, axis in axes if id(value) in names}
        if planned:
            found.append(PlannedBlock(block=block, unit_axes=planned, silencers=find_silencers(block, names)))
    if not found:
        raise MethodError(
            "evolutionary_pruning frees units of feed-forward blocks, and the Plan trains none of their matrices "
            "(gate_proj, up_proj, down_proj): make a Plan that has some, for example with `oblong plan --within role`, "
            "or take packnet, which frees weights of any tensor"
        )
    return tuple(found)


def find_silencers(block: FeedForward, names: Mapping[int, str]) -> tuple[str, ...]:
    """The trained tensors whose zeros silence a unit of down(act(gate x) * up x) and leave it a gradient.

    These are the columns of down, or the rows of a gated up: what act makes of 0 is not known.

    Args:
        block: its matrices.
        names: of the trained parameters, by identity.
    """
    if id(block.down.weight) in names:
        return (names[id(block.down.weight)],)
    needed = [value for value in (block.up.weight, block.up.bias) if value is not None]
    if block.gate is None or any(id(value) not in names for value in needed):
        return ()
    return tuple(names[id(value)] for value in needed)


def advise_on_tasks(num_tasks: int, num_groups: int) -> str:
    """The settings under which so many tasks can be given groups of their own."""
    if num_tasks > num_groups:
        return f"for {num_tasks} tasks give all of them at least {num_tasks} groups"
    strength = math.ceil(1e4 * (1 - num_groups // num_tasks / num_groups)) / 1e4
    return f"for {num_tasks} tasks give all of them a strength of at least {strength}"
