"""Matrices of equal shape on a device, in the format they were stored in, read through float64 panels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from oblong.spectra.tall import choose_exponent

if TYPE_CHECKING:
    import torch

AnyMatrix: TypeAlias = Union[NDArray[Any], "torch.Tensor"]

PANEL_ELEMENTS: Final = 64 * 1024**2
"""A panel, over all members, is 512 MiB of float64: long enough that the products run at full speed."""

NUM_BLOCKS: Final = 4
"""Column blocks of G; only those on and below the diagonal are computed, 5/8 of the product."""

SMALLEST_BLOCK: Final = 256


def gather(matrices: Sequence[AnyMatrix], device: torch.device) -> torch.Tensor:
    """Copy matrices of equal shape and dtype into one stack (b, m, n) on the device, in that dtype.

    A host matrix goes through pinned memory, so that only its stored bytes cross the bus, and the host need not wait.
    """
    import torch

    tensors = [to_tensor(matrix) for matrix in matrices]
    stack = torch.empty((len(tensors), *tensors[0].shape), dtype=tensors[0].dtype, device=device)
    for place, tensor in zip(stack, tensors, strict=True):
        if device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        place.copy_(tensor, non_blocking=True)
        if tensor.is_cuda:
            # Whoever staged it may have done so on another stream, whose allocator must not reuse it too early.
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return stack


def to_tensor(matrix: AnyMatrix) -> torch.Tensor:
    """The same numbers as a tensor, without a copy where torch can share the memory."""
    import torch

    if isinstance(matrix, torch.Tensor):
        return matrix.detach()
    # torch takes neither negative strides nor read-only arrays
    return torch.from_numpy(np.require(matrix, requirements=["C", "W"]))


class DeviceStack:
    """Views of b matrices W or W^T, tall, times 2^-exponent each.

    Args:
        stored: Shape (b, m, n), floating point.
        largest: max |w_ij| of each member; finite and not 0.
    """

    def __init__(self, stored: torch.Tensor, largest: Sequence[float]) -> None:
        self.exponents = [choose_exponent(value) for value in largest]
        self._tall = stored if stored.shape[1] >= stored.shape[2] else stored.mT
        self.num_members, self.num_rows, self.num_columns = self._tall.shape
        factors = [math.ldexp(1.0, -exponent) for exponent in self.exponents]
        self._factors = stored.new_tensor(factors, dtype=_float64())[:, None, None]

    def panels(self, member: int | None = None) -> Iterator[torch.Tensor]:
        """Yield A from top to bottom as (b, rows, num_columns) float64 blocks; of one member only, if it is named."""
        members = slice(None) if member is None else slice(member, member + 1)
        source, factors = self._tall[members], self._factors[members]
        rows = max(PANEL_ELEMENTS // (source.shape[0] * self.num_columns), SMALLEST_BLOCK)
        for start in range(0, self.num_rows, rows):
            # Promoted to float64 before they are multiplied: exact.
            yield source[:, start : start + rows] * factors

    def compute_gram(self) -> torch.Tensor:
        """A^T A, shape (b, num_columns, num_columns)."""
        size = self.num_columns
        gram = self._factors.new_zeros((self.num_members, size, size))
        width = max(-(-size // NUM_BLOCKS), SMALLEST_BLOCK)
        blocks = [slice(start, min(start + width, size)) for start in range(0, size, width)]
        for panel in self.panels():
            for block in blocks:
                gram[:, block.start :, block].baddbmm_(panel[:, :, block.start :].mT, panel[:, :, block])
        for block in blocks:
            gram[:, block, block.stop :] = gram[:, block.stop :, block].mT
        return gram


def find_largest(stored: torch.Tensor) -> list[float]:
    """The largest |w_ij| of each member of (b, m, n); NaN or infinite where one of its numbers is."""
    lowest, highest = stored.flatten(1).aminmax(dim=1)
    largest: list[float] = _maximum(lowest.neg(), highest).double().cpu().tolist()
    return largest


def _maximum(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.maximum(one, other)


def _float64() -> torch.dtype:
    import torch

    return torch.float64
