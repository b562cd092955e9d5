"""One matrix inside a stored tensor, and the ways to cut a tensor into several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Index = tuple[int | slice, ...]

WHOLE: Final = slice(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixPart:
    """One matrix inside a stored tensor: `tensor.reshape(view)[index].reshape(matrix_shape)`.

    `part` is None when it is the whole tensor. `shape` is the part's own, before it becomes a matrix. A view of a head
    is cut out of such a matrix: then `cut` is its place there and `cut_from` that matrix's shape.
    """

    part: str | None
    role: str
    shape: tuple[int, ...]
    matrix_shape: tuple[int, int]
    view: tuple[int, ...]
    index: Index = ()
    note: str | None = None
    cut: Index = ()
    cut_from: tuple[int, int] | None = None

    def extract(self, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The matrix: a view of `values` (the whole tensor) where strides allow, else a copy of this part."""
        return self._cut(values.reshape(self.view)[self.index])

    def extract_from_slice(self, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The same matrix from the slice along the first dimension that holds it (one expert of a stack)."""
        return self._cut(values[self.index[1:]])

    def _cut(self, selected: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        if self.cut_from is None:
            return selected.reshape(self.matrix_shape)
        return selected.reshape(self.cut_from)[self.cut]


def take_whole(shape: tuple[int, ...], role: str, note: str | None = None) -> MatrixPart:
    """The tensor as one matrix: vectors as 1 x n, more than two dimensions as first x rest."""
    rows = shape[0] if len(shape) >= 2 else 1
    if len(shape) > 2 and role != "conv":
        note = note or f"of unknown layout; taken as {rows} x {math.prod(shape[1:])}"
    columns = math.prod(shape[1:]) if len(shape) >= 2 else math.prod(shape)
    return MatrixPart(part=None, role=role, shape=shape, matrix_shape=(rows, columns), view=shape, note=note)


def split_rows(shape: tuple[int, ...], roles: Sequence[str], counts: Sequence[int]) -> tuple[MatrixPart, ...]:
    """Consecutive blocks of rows."""
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return tuple(
        take_part(role, (count, shape[1]), shape, (slice(start, start + count),))
        for role, start, count in zip(roles, starts, counts, strict=True)
    )


def split_columns(shape: tuple[int, ...], roles: Sequence[str]) -> tuple[MatrixPart, ...]:
    """Equal blocks of columns."""
    count = shape[1] // len(roles)
    return tuple(
        take_part(role, (shape[0], count), shape, (WHOLE, slice(i * count, (i + 1) * count)))
        for i, role in enumerate(roles)
    )


def take_part(role: str, size: tuple[int, int], view: tuple[int, ...], index: Index) -> MatrixPart:
    """A part that is named after its role."""
    return MatrixPart(part=role, role=role, shape=size, matrix_shape=size, view=view, index=index)
