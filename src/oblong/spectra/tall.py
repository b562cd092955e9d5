"""One matrix, stood upright and scaled, read through panels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from oblong.spectra.gram import CpuGram
from oblong.spectra.lapack import Array, add_gram
from oblong.spectra.operators import Reading
from oblong.spectra.spectrum import FloatArray
from oblong.spectra.workspace import Workspace

Float = TypeVar("Float", np.float32, np.float64)

WHOLE_ELEMENTS: Final = 4 * 1024**2
"""A matrix of up to 32 MiB of float64 is converted once and kept."""

GRAM_ELEMENTS: Final = 4 * 1024**2
"""A panel for `syrk`: large for BLAS, small beside the matrix."""

PRODUCT_ELEMENTS: Final = 512 * 1024
"""A panel for a product with a few vectors stays in the cache between its conversion and its use."""

LARGEST_SCALING: Final = 1021
"""2 ** 1021 is still finite: the one case it cuts short are matrices of subnormal numbers."""

SAFE_EXPONENT: Final = 40
"""Squares of float32 numbers below 2^40, summed, cannot overflow, and those of numbers near 2^-40 do not vanish."""

FEW_VECTORS: Final = 2
"""So many matrix-vector products are faster than one product with a thin matrix."""


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
        workspace: Where A, or its panels, and the Gram matrix go.
    """

    def __init__(self, matrix: NDArray[Any], largest: float, workspace: Workspace) -> None:
        m, n = matrix.shape
        self._source = matrix if m >= n else matrix.T
        self._workspace = workspace
        self.num_rows, self.num_columns = self._source.shape
        self.exponent = choose_exponent(largest)
        self._whole: FloatArray | None = None
        if self._source.size <= WHOLE_ELEMENTS:
            self._whole = self._convert(0, self.num_rows, np.float64, "matrix")

    @property
    def is_exact_in_float32(self) -> bool:
        """Whether the elements as stored are float32 numbers."""
        return self._source.dtype.itemsize <= np.dtype(np.float32).itemsize

    def to_array(self) -> FloatArray:
        """A itself, float64: for the routes that cannot do without it."""
        return self._whole if self._whole is not None else self._convert(0, self.num_rows, np.float64, "matrix")

    def compute_gram(self) -> CpuGram:
        """A^T A in float64, summed over the panels."""
        whole = self._whole
        panels = self._panels(GRAM_ELEMENTS, np.float64) if whole is None else iter((whole,))
        return self._sum_grams(panels, np.float64)

    def compute_float32_gram(self) -> CpuGram:
        """A^T A in float32 arithmetic, without a copy of A if it is float32 already."""
        is_array = isinstance(self._source, np.ndarray)  # and not rows that are read when they are asked for
        if is_array and self._source.dtype == np.float32 and abs(self.exponent) <= SAFE_EXPONENT:
            return self._sum_grams(iter((self._source,)), np.float32, scale=math.ldexp(1.0, -2 * self.exponent))
        return self._sum_grams(self._panels(GRAM_ELEMENTS, np.float32), np.float32)

    def multiply_twice(self, block: FloatArray, also: FloatArray | None = None) -> Reading:
        """A B, A^T A B and A C for B and C of shape (num_columns, k), reading A once."""
        normal, squares = np.zeros(block.shape), 0.0
        product = np.empty((self.num_rows, block.shape[1]))
        other = np.empty((self.num_rows, 0 if also is None else also.shape[1]))
        start = 0
        for panel in self._panels(PRODUCT_ELEMENTS, np.float64) if self._whole is None else (self._whole,):
            rows = slice(start, start + panel.shape[0])
            product[rows] = multiply(panel, block)
            normal += multiply(panel.T, product[rows])
            if also is not None:
                other[rows] = multiply(panel, also)
            flat = panel.ravel(order="K")  # of a transposed panel any other order is a copy
            squares += float(flat @ flat)
            start = rows.stop
        return Reading(product=product, normal=normal, also=other, sum_of_squares=squares)

    def _sum_grams(self, panels: Iterator[Array], dtype: type[Float], scale: float = 1.0) -> CpuGram:
        gram = self._workspace.take("gram", (self.num_columns, self.num_columns), dtype)
        for index, panel in enumerate(panels):
            add_gram(panel, gram, is_first=index == 0)
        if scale != 1.0:
            with np.errstate(all="ignore"):  # the other triangle holds anything
                gram *= dtype(scale)
        return CpuGram(gram, self._workspace)

    def _panels(self, num_elements: int, dtype: type[Float]) -> Iterator[NDArray[Float]]:
        """Yield A from top to bottom as (rows, num_columns) blocks of about so many elements, in one buffer."""
        rows = max(num_elements // self.num_columns, 1)
        for start in range(0, self.num_rows, rows):
            yield self._convert(start, min(start + rows, self.num_rows), dtype, "panel")

    def _convert(self, start: int, stop: int, dtype: type[Float], purpose: str) -> NDArray[Float]:
        """Some rows of A in the workspace, laid out as they are in the source."""
        rows = self._source[start:stop]
        is_upright = rows.strides[0] >= rows.strides[1]
        shape = rows.shape if is_upright else rows.shape[::-1]
        panel: NDArray[Float] = self._workspace.take(purpose, shape, dtype)
        panel = panel if is_upright else panel.T
        np.copyto(panel, rows, casting="same_kind")
        if self.exponent:
            panel *= dtype(math.ldexp(1.0, -self.exponent))
        return panel


def multiply(matrix: FloatArray, block: FloatArray) -> FloatArray:
    """A B for a thin B, in the way that BLAS does fastest."""
    if block.shape[1] <= FEW_VECTORS:
        return np.stack([matrix @ np.ascontiguousarray(column) for column in block.T], axis=1)
    result: FloatArray = (np.ascontiguousarray(block.T) @ matrix.T).T
    return result
