"""One member of a stack as the routes of a single matrix see it (operators.py): thin numpy blocks in and out.

What was found out for the whole stack at once (Gram matrix, factor, sums, eigenvalues) is only looked up here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from oblong.spectra.device_factor import StackedFactor, factorise
from oblong.spectra.device_stack import DeviceStack
from oblong.spectra.operators import Reading
from oblong.spectra.spectrum import FloatArray

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class StackedGram:
    """The Gram matrices of a stack (b, p, p) and their factors on the device, and what the host knows about them.

    Attributes:
        values: Shape (b, p, p), float64, on the device.
        factor: Of all members; worthless where `is_positive` is false.
        traces: ||A||_F^2, shape (b,).
        sums_of_squares: ||G||_F^2, shape (b,).
        log_volumes: 1/2 ln det G, shape (b,).
        is_positive: Whether G was positive definite to working precision, shape (b,).
        eigenvalues: Ascending, shape (b, p), if they were asked for.
    """

    values: torch.Tensor
    factor: StackedFactor
    traces: FloatArray
    sums_of_squares: FloatArray
    log_volumes: FloatArray
    is_positive: list[bool]
    eigenvalues: FloatArray | None


def compute_stacked_gram(stack: DeviceStack, *, full: bool) -> StackedGram:
    """Everything about the Gram matrices of a stack, in one synchronisation (two with eigenvalues)."""
    import torch

    values = stack.compute_gram()
    factor = factorise(values)
    sums = [
        values.diagonal(dim1=-2, dim2=-1).sum(dim=-1),
        torch.linalg.vector_norm(values, dim=(-2, -1)).square(),
        factor.compute_log_volumes(),
        factor.info.double(),
    ]
    traces, sums_of_squares, log_volumes, info = fetch(torch.stack(sums))
    is_positive = (info == 0) & np.isfinite(log_volumes)
    return StackedGram(
        values=values,
        factor=factor,
        traces=traces,
        sums_of_squares=sums_of_squares,
        log_volumes=log_volumes,
        is_positive=[bool(yes) for yes in is_positive],
        eigenvalues=fetch(torch.linalg.eigvalsh(values)) if full and is_positive.any() else None,
    )


class DeviceMatrix:
    """Implements `operators.Matrix`."""

    def __init__(self, stack: DeviceStack, gram: StackedGram, member: int) -> None:
        self._stack, self._gram, self._member = stack, gram, member
        self.num_rows, self.num_columns = stack.num_rows, stack.num_columns
        self.exponent = stack.exponents[member]

    def compute_gram(self) -> DeviceGram:
        """A^T A."""
        return DeviceGram(self._gram, self._member)

    def multiply_twice(self, block: FloatArray, also: FloatArray | None = None) -> Reading:
        """A B, A^T A B and A C, reading A once; both are fetched at the end."""
        import torch

        width = block.shape[1]
        blocks = send(block if also is None else np.hstack([block, also]), self._gram.values)
        products, normal = [], blocks.new_zeros((self.num_columns, width))
        for panel in self._panels():
            products.append(panel @ blocks)
            normal.addmm_(panel.mT, products[-1][:, :width])
        product = fetch(torch.cat(products))
        return Reading(
            product=product[:, :width],
            normal=fetch(normal),
            also=product[:, width:],
            sum_of_squares=float(self._gram.traces[self._member]),
        )

    def to_array(self) -> FloatArray:
        """A as a numpy array."""
        return np.concatenate([fetch(panel) for panel in self._panels()])

    def _panels(self) -> Iterator[torch.Tensor]:
        return (panel[0] for panel in self._stack.panels(self._member))


class DeviceGram:
    """Implements `operators.Gram`."""

    def __init__(self, stacked: StackedGram, member: int) -> None:
        self._stacked, self._member = stacked, member

    @property
    def trace(self) -> float:
        """||A||_F^2."""
        return float(self._stacked.traces[self._member])

    @property
    def sum_of_squares(self) -> float:
        """||G||_F^2."""
        return float(self._stacked.sums_of_squares[self._member])

    def multiply_vector(self, vector: FloatArray) -> FloatArray:
        """G v."""
        values = self._stacked.values[self._member]
        return fetch(values @ send(vector, values))

    def to_float32(self) -> None:
        """Nothing: a stack is searched in float64."""

    def factorise(self, *, overwrite: bool = False) -> DeviceFactor | None:
        """Cholesky factor, or None if G is not positive definite to working precision; found already, beside G."""
        return DeviceFactor(self._stacked, self._member) if self._stacked.is_positive[self._member] else None

    def compute_eigenvalues(self) -> FloatArray:
        """All eigenvalues, ascending."""
        assert self._stacked.eigenvalues is not None, "asked for with full=True"
        found: FloatArray = self._stacked.eigenvalues[self._member]
        return found


class DeviceFactor:
    """Implements `operators.Factor`."""

    def __init__(self, stacked: StackedGram, member: int) -> None:
        self._inverse = stacked.factor.inverse[member]
        self.log_volume = float(stacked.log_volumes[member])

    def solve_vector(self, vector: FloatArray) -> FloatArray:
        """G^-1 v."""
        return self.solve(vector[:, None])[:, 0]

    def solve(self, block: FloatArray) -> FloatArray:
        """G^-1 B."""
        return fetch(self._inverse.mT @ (self._inverse @ send(block, self._inverse)))

    def half_solve(self, block: FloatArray) -> FloatArray:
        """L^-1 B."""
        return fetch(self._inverse @ send(block, self._inverse))


def send(array: FloatArray, like: torch.Tensor) -> torch.Tensor:
    """A numpy array on the device of a tensor."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device)


def fetch(tensor: torch.Tensor) -> FloatArray:
    """A tensor as a numpy array; waits for the device."""
    result: FloatArray = tensor.cpu().numpy()
    return result
