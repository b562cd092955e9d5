"""The Gram matrix and its Cholesky factor on the CPU.

numpy and scipy call the same BLAS and LAPACK. numpy's calls let other threads run meanwhile, scipy's do not: so the
long operations go through numpy, and scipy does the short ones that numpy lacks.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.linalg import blas

from oblong.spectra.spectrum import FloatArray


class CpuGram:
    """Implements `operators.Gram`.

    Args:
        values: G, shape (p, p), float64, symmetric, in C order.
    """

    def __init__(self, values: FloatArray) -> None:
        self._values = values

    @property
    def trace(self) -> float:
        """||A||_F^2."""
        return float(np.trace(self._values))

    @property
    def sum_of_squares(self) -> float:
        """||G||_F^2."""
        return float(np.vdot(self._values, self._values))

    def multiply_vector(self, vector: FloatArray) -> FloatArray:
        """G v; `dsymv` reads half of G."""
        result: FloatArray = blas.dsymv(1.0, self._values.T, vector)
        return result

    def factorise(self) -> CpuFactor | None:
        """Cholesky factor, or None if G is not positive definite to working precision."""
        try:
            lower: FloatArray = np.linalg.cholesky(self._values)  # type: ignore[assignment]
        except np.linalg.LinAlgError:
            return None
        return CpuFactor(lower)

    def compute_eigenvalues(self) -> FloatArray:
        """All eigenvalues, ascending."""
        values: FloatArray = np.linalg.eigvalsh(self._values)  # type: ignore[assignment]
        return values


class CpuFactor:
    """Implements `operators.Factor`.

    Args:
        lower: L, shape (p, p), float64, in C order.
    """

    def __init__(self, lower: FloatArray) -> None:
        self._upper = lower.T  # in Fortran order, as BLAS wants it

    @cached_property
    def log_volume(self) -> float:
        """Sum of the logarithms of the diagonal."""
        return float(np.log(np.diagonal(self._upper)).sum())

    def solve_vector(self, vector: FloatArray) -> FloatArray:
        """G^-1 v."""
        half = blas.dtrsv(self._upper, vector, trans=1)
        result: FloatArray = blas.dtrsv(self._upper, half, overwrite_x=1)
        return result

    def solve(self, block: FloatArray) -> FloatArray:
        """G^-1 B."""
        result: FloatArray = blas.dtrsm(1.0, self._upper, self.half_solve(block), overwrite_b=1)
        return result

    def half_solve(self, block: FloatArray) -> FloatArray:
        """L^-1 B."""
        result: FloatArray = blas.dtrsm(1.0, self._upper, block, trans_a=1)
        return result
