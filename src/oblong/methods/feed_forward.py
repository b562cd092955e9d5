"""The units of feed-forward blocks, in groups: found in a model, silenced, and deleted for good.

A unit is a row of gate and up and a column of down. Groups are consecutive units, as equal in number as possible.
Deleting makes a model smaller; it protects nothing from forgetting by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from oblong.errors import MethodError

Chromosome = tuple[tuple[int, ...], ...]
"""For every feed-forward block, the groups to delete, without repetition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """One block, by its module's name: down(act(gate x) * up x), or down(act(up x)) without a gate."""

    name: str
    up: nn.Linear
    down: nn.Linear
    gate: nn.Linear | None

    @property
    def num_units(self) -> int:
        """Of the intermediate layer."""
        return self.down.in_features

    @property
    def inputs(self) -> tuple[nn.Linear, ...]:
        """The matrices whose rows are intermediate units."""
        return (self.up,) if self.gate is None else (self.gate, self.up)


def find_feed_forward(model: nn.Module) -> tuple[FeedForward, ...]:
    """The feed-forward blocks of Llama-like models, in order.

    Raises:
        MethodError: there are none.
    """
    found = (
        (name, *(getattr(module, f"{role}_proj", None) for role in ("up", "down", "gate")))
        for name, module in model.named_modules()
    )
    blocks = tuple(
        FeedForward(name=name, up=up, down=down, gate=gate)
        for name, up, down, gate in found
        if isinstance(up, nn.Linear) and isinstance(down, nn.Linear)
    )
    if not blocks:
        raise MethodError("evolutionary pruning needs feed-forward blocks with up_proj and down_proj, and found none")
    return blocks


@contextmanager
def silence(blocks: Sequence[FeedForward], chromosome: Chromosome, num_groups: int) -> Iterator[None]:
    """Inside the block, the units of a chromosome put out zero: the loss is that of the pruned model."""
    handles = []
    for block, genes in zip(blocks, chromosome, strict=True):
        silent = mark_units(genes, block.num_units, num_groups).to(block.down.weight.device)
        handles.append(block.down.register_forward_pre_hook(_make_silencing_hook(silent)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def prune(blocks: Sequence[FeedForward], chromosome: Chromosome, num_groups: int) -> None:
    """Delete the units of a chromosome for good: fewer rows in gate and up, fewer columns in down."""
    for block, genes in zip(blocks, chromosome, strict=True):
        deleted = set(list_units(genes, block.num_units, num_groups))
        kept = torch.tensor([unit for unit in range(block.num_units) if unit not in deleted])
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


def mark_units(genes: Sequence[int], num_units: int, num_groups: int) -> Tensor:
    """Which units are in some groups: bool, num_units, on the CPU."""
    marked = torch.zeros(num_units, dtype=torch.bool)
    marked[list_units(genes, num_units, num_groups)] = True
    return marked


def _make_silencing_hook(silent: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    return lambda module, inputs: (inputs[0].masked_fill(silent, 0.0), *inputs[1:])
