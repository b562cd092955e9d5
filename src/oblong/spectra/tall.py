"""One matrix, stood upright and scaled, read through panels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from oblong.spectra.gram import CpuGram
from oblong.spectra.operators import Reading
from oblong.spectra.spectrum import FloatArray

Float = TypeVar("Float", np.float32, np.float64)

GRAM_ELEMENTS: Final = 4 * 1024**2
"""A panel for `syrk` is 32 MiB of float64 (or square, if that is more): large for BLAS, small beside the matrix."""

PRODUCT_ELEMENTS: Final = 512 * 1024
"""A panel for a product with a few vectors stays in the cache between its conversion and its use."""

LARGEST_SCALING: Final = 1021
"""2 ** 1021 is still finite: the one case it cuts short are matrices of subnormal numbers."""

SAFE_EXPONENT: Final = 40
"""Squares of float32 numbers below 2^40, summed, cannot overflow, and those of numbers near 2^-40 do not vanish."""


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
        self._whole: FloatArray | None = None
        if max(GRAM_ELEMENTS, self.num_columns**2) >= self._source.size:
            self._whole = self._convert(0, self.num_rows, np.float64)

    @property
    def is_exact_in_float32(self) -> bool:
        """Whether the elements as stored are float32 numbers."""
        return self._source.dtype.itemsize <= np.dtype(np.float32).itemsize

    def _convert(self, start: int, stop: int, dtype: type[Float]) -> NDArray[Float]:
        panel: NDArray[Float] = self._source[start:stop].astype(dtype)
        if self.exponent:
            panel *= dtype(math.ldexp(1.0, -self.exponent))
        return panel

    def _panels(self, num_elements: int, dtype: type[Float]) -> Iterator[NDArray[Float]]:
        """Yield A from top to bottom as (rows, num_columns) blocks of about so many elements."""
        rows = max(num_elements // self.num_columns, 1)
        for start in range(0, self.num_rows, rows):
            yield self._convert(start, start + rows, dtype)

    def to_array(self) -> FloatArray:
        """A itself, float64: for the routes that cannot do without it."""
        return self._whole if self._whole is not None else self._convert(0, self.num_rows, np.float64)

    def compute_gram(self) -> CpuGram:
        """A^T A in float64, summed over the panels."""
        if self._whole is not None:
            return CpuGram(self._whole.T @ self._whole)
        gram: FloatArray = _sum_grams(self._panels(max(GRAM_ELEMENTS, self.num_columns**2), np.float64))
        return CpuGram(gram)

    def compute_float32_gram(self) -> CpuGram:
        """A^T A in float32 arithmetic, without a copy of A if it is float32 already."""
        if self._source.dtype == np.float32 and abs(self.exponent) <= SAFE_EXPONENT:
            gram = self._source.T @ self._source
            gram *= np.float32(math.ldexp(1.0, -2 * self.exponent))
            return CpuGram(gram)
        return CpuGram(_sum_grams(self._panels(max(GRAM_ELEMENTS, self.num_columns**2), np.float32)))

    def multiply_twice(self, block: FloatArray, also: FloatArray | None = None) -> Reading:
        """A B, A^T A B and A C for B and C of shape (num_columns, k), reading A once."""
        width = block.shape[1]
        blocks = block if also is None else np.hstack([block, also])
        products, normal, squares = [], np.zeros(block.shape), 0.0
        for panel in self._panels(PRODUCT_ELEMENTS, np.float64) if self._whole is None else (self._whole,):
            products.append(panel @ blocks)
            normal += panel.T @ products[-1][:, :width]
            flat = panel.ravel(order="K")  # of a transposed panel any other order is a copy
            squares += float(flat @ flat)
        product = np.concatenate(products)
        return Reading(product=product[:, :width], normal=normal, also=product[:, width:], sum_of_squares=squares)


def _sum_grams(panels: Iterator[NDArray[Float]]) -> NDArray[Float]:
    """Sum of P^T P; numpy calls `syrk` for it, half the work of a product."""
    first = next(panels)
    gram: NDArray[Float] = first.T @ first
    for panel in panels:
        gram += panel.T @ panel
    return gram
