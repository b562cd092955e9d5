"""Evolutionary pruning: a genetic algorithm finds which groups of feed-forward units a model can do without.

A chromosome names, for every layer, the groups of intermediate units to delete (rows of gate and up, columns of down).

    fitness      loss on anchor text with those units silenced; lower is better
    selection    of the sorted population, index floor((N - 1) (e^(a u) - 1) / (e^a - 1)), u uniform in [0, 1)
    crossover    gene by gene from either parent; a gene that is there already is replaced by a random one (mutation)
    elitism      the best of the last generation comes back if all the new ones are worse

Source: Ludwig, "Pruning pre-trained models using evolutionary computation" and its code: a = 3, one individual of the
first population from the L1 norm. There the fitness is the word error rate of a speech encoder, with 100 individuals
and 70 generations; 16 and 10 are the defaults here. This makes a model smaller; it protects nothing from forgetting by
itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oblong.errors import MethodError
from oblong.methods.options import EvolutionaryPruningOptions

Chromosome = tuple[tuple[int, ...], ...]
"""For every feed-forward block, the groups to delete, without repetition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """One block: down(act(gate x) * up x), or down(act(up x)) without a gate."""

    up: nn.Linear
    down: nn.Linear
    gate: nn.Linear | None

    @property
    def inputs(self) -> tuple[nn.Linear, ...]:
        """The matrices whose rows are intermediate units."""
        return (self.up,) if self.gate is None else (self.gate, self.up)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolution:
    """What the search found.

    Attributes:
        best: the best chromosome.
        losses: the best fitness of each generation, the first population included; never rising.
        num_evaluations: forward passes over the anchor.
    """

    best: Chromosome
    losses: tuple[float, ...]
    num_evaluations: int


def find_feed_forward(model: nn.Module) -> tuple[FeedForward, ...]:
    """The feed-forward blocks of Llama-like models, in order.

    Raises:
        MethodError: there are none.
    """
    found = (
        (getattr(module, "up_proj", None), getattr(module, "down_proj", None), getattr(module, "gate_proj", None))
        for module in model.modules()
    )
    blocks = tuple(
        FeedForward(up=up, down=down, gate=gate)
        for up, down, gate in found
        if isinstance(up, nn.Linear) and isinstance(down, nn.Linear)
    )
    if not blocks:
        raise MethodError("evolutionary pruning needs feed-forward blocks with up_proj and down_proj, and found none")
    return blocks


def evolve(
    blocks: Sequence[FeedForward], measure: Callable[[], float], options: EvolutionaryPruningOptions
) -> Evolution:
    """Search for the groups whose loss hurts least.

    Args:
        blocks: where to delete.
        measure: the loss of the model as it is at the moment, nats per token.
        options: sizes of the search.
    """
    generator = np.random.default_rng(options.seed)
    fitness = _Fitness(blocks, measure, options.groups)
    random = [draw_chromosome(len(blocks), options, generator) for _ in range(options.population - 1)]
    population = fitness.rank([choose_by_norm(blocks, options), *random])
    losses = [fitness(population[0])]
    for _ in range(options.generations):
        children = [breed(population, options, generator) for _ in population]
        ranked = fitness.rank(children)
        if fitness(ranked[0]) > losses[-1]:
            ranked = [population[0], *ranked[:-1]]
        population = ranked
        losses.append(fitness(population[0]))
    return Evolution(best=population[0], losses=tuple(losses), num_evaluations=fitness.num_evaluations)


class _Fitness:
    """Remembers what it has measured."""

    def __init__(self, blocks: Sequence[FeedForward], measure: Callable[[], float], num_groups: int) -> None:
        self._blocks, self._measure, self._num_groups = blocks, measure, num_groups
        self._known: dict[Any, float] = {}

    @property
    def num_evaluations(self) -> int:
        return len(self._known)

    def __call__(self, chromosome: Chromosome) -> float:
        key = tuple(frozenset(genes) for genes in chromosome)
        if key not in self._known:
            with silence(self._blocks, chromosome, self._num_groups):
                self._known[key] = self._measure()
        return self._known[key]

    def rank(self, population: Sequence[Chromosome]) -> list[Chromosome]:
        return sorted(population, key=self)


def draw_chromosome(num_blocks: int, options: EvolutionaryPruningOptions, generator: np.random.Generator) -> Chromosome:
    """Random groups for every block."""
    return tuple(
        tuple(int(gene) for gene in generator.permutation(options.groups)[: options.deleted]) for _ in range(num_blocks)
    )


def choose_by_norm(blocks: Sequence[FeedForward], options: EvolutionaryPruningOptions) -> Chromosome:
    """The groups with the smallest L1 norm over all matrices of a block."""
    chosen = []
    for block in blocks:
        norms = block.down.weight.detach().abs().sum(0)
        for matrix in block.inputs:
            norms = norms + matrix.weight.detach().abs().sum(1)
        totals = torch.stack([group.sum() for group in norms.tensor_split(options.groups)])
        chosen.append(tuple(int(index) for index in totals.argsort()[: options.deleted]))
    return tuple(chosen)


def breed(
    ranked: Sequence[Chromosome], options: EvolutionaryPruningOptions, generator: np.random.Generator
) -> Chromosome:
    """A child of two parents, the better ones more often."""
    one, other = (ranked[pick_index(len(ranked), options.pressure, generator.random())] for _ in range(2))
    return tuple(cross(first, second, options.groups, generator) for first, second in zip(one, other, strict=True))


def pick_index(count: int, pressure: float, uniform: float) -> int:
    """floor((N - 1) (e^(a u) - 1) / (e^a - 1)): 0 is the best; the larger a, the more often."""
    return math.floor((count - 1) * math.expm1(pressure * uniform) / math.expm1(pressure))


def cross(one: Sequence[int], other: Sequence[int], num_groups: int, generator: np.random.Generator) -> tuple[int, ...]:
    """Gene by gene from either parent; a gene that is there already is replaced by a random new one."""
    child: list[int] = []
    for first, second in zip(one, other, strict=True):
        gene = first if generator.random() > 0.5 else second
        if gene in child:
            gene = int(generator.choice([new for new in range(num_groups) if new not in child]))
        child.append(gene)
    return tuple(child)


@contextmanager
def silence(blocks: Sequence[FeedForward], chromosome: Chromosome, num_groups: int) -> Iterator[None]:
    """Inside the block, the units of a chromosome put out zero: the loss is that of the pruned model."""
    handles = []
    for block, genes in zip(blocks, chromosome, strict=True):
        mask = torch.ones(block.down.in_features, device=block.down.weight.device)
        mask[list_units(genes, len(mask), num_groups)] = 0.0
        handles.append(block.down.register_forward_pre_hook(_make_mask_hook(mask)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def prune(blocks: Sequence[FeedForward], chromosome: Chromosome, num_groups: int) -> None:
    """Delete the units of a chromosome for good: fewer rows in gate and up, fewer columns in down."""
    for block, genes in zip(blocks, chromosome, strict=True):
        deleted = set(list_units(genes, block.down.in_features, num_groups))
        kept = torch.tensor([unit for unit in range(block.down.in_features) if unit not in deleted])
        for matrix in block.inputs:
            matrix.weight = nn.Parameter(matrix.weight.detach()[kept].clone(), matrix.weight.requires_grad)
            if matrix.bias is not None:
                matrix.bias = nn.Parameter(matrix.bias.detach()[kept].clone(), matrix.bias.requires_grad)
            matrix.out_features = len(kept)
        block.down.weight = nn.Parameter(block.down.weight.detach()[:, kept].clone(), block.down.weight.requires_grad)
        block.down.in_features = len(kept)


def list_units(genes: Sequence[int], num_units: int, num_groups: int) -> list[int]:
    """The units of some groups; groups are consecutive and as equal as possible."""
    groups = np.array_split(np.arange(num_units), num_groups)
    return [int(unit) for gene in genes for unit in groups[gene]]


def _make_mask_hook(mask: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    return lambda module, inputs: (inputs[0] * mask.to(inputs[0].dtype), *inputs[1:])
