"""One matrix, stood upright and scaled, read through float64 panels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oblong.spectra.gram import CpuGram
from oblong.spectra.spectrum import FloatArray

PANEL_ELEMENTS = 4 * 1024**2
"""A panel is 32 MiB of float64 (or square, if that is more): large for BLAS, small beside the matrix."""

LARGEST_SCALING = 1021
"""2 ** 1021 is still finite: the one case it cuts short are matrices of subnormal numbers."""


def choose_exponent(largest: float) -> int:
    """The k for which 2^-k * largest lies in [1/2, 1)."""
    return max(math.frexp(largest)[1], -LARGEST_SCALING)


class TallMatrix:
    """Implements `operators.Matrix` on the CPU: a view of W or W^T, tall, times 2^-exponent.

    The exponent brings the largest element into [1/2, 1), so that squares neither overflow nor underflow; a power of
    two loses no bit, and W and 2^k W become the same A. A small A is kept in float64; a large one is converted panel
    by panel each time it is read, so that no float64 copy of it ever exists.

    Args:
        matrix: Shape (m, n), float16, float32 or float64, finite, not all zero; any strides.
        largest: max |w_ij|.
    """

    def __init__(self, matrix: NDArray[Any], largest: float) -> None:
        m, n = matrix.shape
        self._source = matrix if m >= n else matrix.T
        self.num_rows, self.num_columns = self._source.shape
        self.exponent = choose_exponent(largest)
        self._factor = math.ldexp(1.0, -self.exponent)
        self._panel_rows = max(PANEL_ELEMENTS // self.num_columns, self.num_columns)
        self._whole = self._convert(0) if self._panel_rows >= self.num_rows else None

    def _convert(self, start: int) -> FloatArray:
        panel = self._source[start : start + self._panel_rows].astype(np.float64)
        if self._factor != 1.0:
            panel *= self._factor
        return panel

    def panels(self) -> Iterator[FloatArray]:
        """Yield A from top to bottom as (rows, num_columns) blocks."""
        if self._whole is not None:
            yield self._whole
            return
        for start in range(0, self.num_rows, self._panel_rows):
            yield self._convert(start)

    def to_array(self) -> FloatArray:
        """A itself, float64: for the routes that cannot do without it."""
        return self._whole if self._whole is not None else np.concatenate(list(self.panels()))

    def compute_gram(self) -> CpuGram:
        """A^T A, summed over the panels; numpy calls `syrk` for X.T @ X, half the work of a product."""
        panels = self.panels()
        first = next(panels)
        gram: FloatArray = first.T @ first
        for panel in panels:
            gram += panel.T @ panel
        return CpuGram(gram)

    def multiply(self, block: FloatArray) -> FloatArray:
        """A B for B of shape (num_columns, k)."""
        return np.concatenate([panel @ block for panel in self.panels()])

    def multiply_transposed(self, block: FloatArray) -> FloatArray:
        """A^T B for B of shape (num_rows, k)."""
        result = np.zeros((self.num_columns, block.shape[1]))
        start = 0
        for panel in self.panels():
            stop = start + panel.shape[0]
            result += panel.T @ block[start:stop]
            start = stop
        return result
