"""A genetic algorithm that finds which groups of feed-forward units a model can do without.

A chromosome names, for every block, the groups of intermediate units to delete (rows of gate and up, columns of down).

    fitness      loss on anchor text with those units silenced; lower is better
    selection    of the sorted population, index floor((N - 1) (e^(a u) - 1) / (e^a - 1)), u uniform in [0, 1)
    crossover    gene by gene from either parent; a gene that is there already is replaced by a random one (mutation)
    elitism      the best of the last generation comes back if all the new ones are worse

Source: Ludwig, "Pruning pre-trained models using evolutionary computation" and its code: a = 3, one individual of the
first population from the L1 norm. There the fitness is the word error rate of a speech encoder, with 100 individuals
and 70 generations; 16 and 10 are the defaults here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from oblong.methods.feed_forward import Chromosome, FeedForward, silence
from oblong.methods.options import EvolutionOptions


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


def evolve(
    blocks: Sequence[FeedForward],
    measure: Callable[[], float],
    options: EvolutionOptions,
    *,
    open_groups: Sequence[Sequence[int]] | None = None,
) -> Evolution:
    """Search for the groups whose loss hurts least.

    Args:
        blocks: where to delete.
        measure: the loss of the model as it is at the moment, nats per token.
        options: sizes of the search.
        open_groups: for every block, the groups to choose from, at least as many as are deleted; default: all.
    """
    open_groups = [range(options.groups)] * len(blocks) if open_groups is None else open_groups
    generator = np.random.default_rng(options.seed)
    fitness = _Fitness(blocks, measure, options.groups)
    random = [draw_chromosome(open_groups, options.deleted, generator) for _ in range(options.population - 1)]
    population = fitness.rank([choose_by_norm(blocks, open_groups, options), *random])
    losses = [fitness(population[0])]
    for _ in range(options.generations):
        children = [breed(population, open_groups, options.pressure, generator) for _ in population]
        ranked = fitness.rank(children)
        if fitness(ranked[0]) > losses[-1]:
            ranked = [population[0], *ranked[:-1]]
        population = ranked
        losses.append(fitness(population[0]))
    return Evolution(best=population[0], losses=tuple(losses), num_evaluations=fitness.num_evaluations)


class _Fitness:
    """Remembers what it has measured; a loss that is no number is the worst."""

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
                loss = self._measure()
            self._known[key] = math.inf if math.isnan(loss) else loss
        return self._known[key]

    def rank(self, population: Sequence[Chromosome]) -> list[Chromosome]:
        return sorted(population, key=self)


def draw_chromosome(
    open_groups: Sequence[Sequence[int]], num_deleted: int, generator: np.random.Generator
) -> Chromosome:
    """Random groups for every block, of those that are open in it."""
    return tuple(tuple(int(gene) for gene in generator.permutation(groups)[:num_deleted]) for groups in open_groups)


def choose_by_norm(
    blocks: Sequence[FeedForward], open_groups: Sequence[Sequence[int]], options: EvolutionOptions
) -> Chromosome:
    """The groups with the smallest L1 norm over all matrices of a block, of those that are open in it."""
    chosen = []
    for block, groups in zip(blocks, open_groups, strict=True):
        norms = block.down.weight.detach().abs().sum(0)
        for matrix in block.inputs:
            norms = norms + matrix.weight.detach().abs().sum(1)
        totals = torch.stack([group.sum() for group in norms.tensor_split(options.groups)])
        ranked = [int(group) for group in totals.argsort() if int(group) in groups]
        chosen.append(tuple(ranked[: options.deleted]))
    return tuple(chosen)


def breed(
    ranked: Sequence[Chromosome],
    open_groups: Sequence[Sequence[int]],
    pressure: float,
    generator: np.random.Generator,
) -> Chromosome:
    """A child of two parents, the better ones more often."""
    one, other = (ranked[pick_index(len(ranked), pressure, generator.random())] for _ in range(2))
    return tuple(
        cross(first, second, groups, generator) for first, second, groups in zip(one, other, open_groups, strict=True)
    )


def pick_index(count: int, pressure: float, uniform: float) -> int:
    """floor((N - 1) (e^(a u) - 1) / (e^a - 1)): 0 is the best; the larger a, the more often."""
    return math.floor((count - 1) * math.expm1(pressure * uniform) / math.expm1(pressure))


def cross(
    one: Sequence[int], other: Sequence[int], groups: Sequence[int], generator: np.random.Generator
) -> tuple[int, ...]:
    """Gene by gene from either parent; a gene that is there already is replaced by a random new one of some groups."""
    child: list[int] = []
    for first, second in zip(one, other, strict=True):
        gene = first if generator.random() > 0.5 else second
        if gene in child:
            gene = int(generator.choice([new for new in groups if new not in child]))
        child.append(gene)
    return tuple(child)
