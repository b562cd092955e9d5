"""The Gram matrix and its Cholesky factor on the CPU, in float64 or float32."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from oblong.spectra.lapack import Array, SymmetricProduct, Triangle, factorise
from oblong.spectra.spectrum import FloatArray

ROWS_AT_A_TIME = 256


class CpuGram:
    """Implements `operators.Gram`.

    Args:
        values: G, shape (p, p), float64 or float32, symmetric, in C order.
    """

    def __init__(self, values: Array) -> None:
        self._values = values
        self.size = values.shape[0]
        self.multiply_vector = SymmetricProduct(values)

    @property
    def trace(self) -> float:
        """||A||_F^2."""
        return float(np.trace(self._values, dtype=np.float64))

    @property
    def sum_of_squares(self) -> float:
        """||G||_F^2, summed in float64."""
        starts = range(0, self._values.shape[0], ROWS_AT_A_TIME)
        panels = (self._values[start : start + ROWS_AT_A_TIME].astype(np.float64, copy=False) for start in starts)
        return float(sum(np.vdot(panel, panel) for panel in panels))

    def factorise(self) -> CpuFactor | None:
        """Cholesky factor, or None if G is not positive definite to working precision."""
        upper = factorise(self._values.copy())
        return None if upper is None else CpuFactor(upper)

    def compute_eigenvalues(self) -> FloatArray:
        """All eigenvalues, ascending."""
        values: FloatArray = np.linalg.eigvalsh(self._values)  # type: ignore[assignment]
        return values


class CpuFactor:
    """Implements `operators.Factor`. Blocks come back in the precision of the factor.

    Args:
        upper: R = L^T in the upper triangle of a (p, p) array, C order; what is below the diagonal does not count.
    """

    def __init__(self, upper: Array) -> None:
        self._upper = upper
        triangle = Triangle(upper)
        self.solve_vector = triangle.solve_vector
        self.solve = triangle.solve
        self.half_solve = triangle.half_solve
        self.other_half_solve = triangle.other_half_solve
        self.multiply = triangle.multiply

    @cached_property
    def log_volume(self) -> float:
        """Sum of the logarithms of the diagonal."""
        return float(np.log(np.diagonal(self._upper), dtype=np.float64).sum())
