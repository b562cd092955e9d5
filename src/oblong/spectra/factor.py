"""The Cholesky factor of a Gram matrix, and what it can tell."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.linalg import blas

from oblong.spectra.spectrum import FloatArray


class CholeskyFactor:
    """G = L L^T.

    Args:
        gram: G, shape (p, p), symmetric.

    Raises:
        numpy.linalg.LinAlgError: G is not positive definite to working precision.
    """

    def __init__(self, gram: FloatArray) -> None:
        # numpy, not scipy: the same LAPACK routine, but it lets other threads run.
        lower: FloatArray = np.linalg.cholesky(gram)  # type: ignore[assignment]
        self._upper = lower.T  # in Fortran order, as BLAS wants it

    @cached_property
    def log_volume(self) -> float:
        """1/2 ln det G: sum of the logarithms of the singular values."""
        return float(np.log(np.diagonal(self._upper)).sum())

    def solve_vector(self, vector: FloatArray) -> FloatArray:
        """G^-1 v for v of shape (p,)."""
        half = blas.dtrsv(self._upper, vector, trans=1)
        result: FloatArray = blas.dtrsv(self._upper, half, overwrite_x=1)
        return result

    def solve(self, block: FloatArray) -> FloatArray:
        """G^-1 B for B of shape (p, k)."""
        half = blas.dtrsm(1.0, self._upper, block, trans_a=1)
        result: FloatArray = blas.dtrsm(1.0, self._upper, half, overwrite_b=1)
        return result

    def log_volume_of(self, basis: FloatArray) -> float:
        """The part of `log_volume` that belongs to the span of some near-invariant orthonormal columns, (p, k).

        -1/2 ln det(B^T G^-1 B) = -ln |det R| with Q R = L^-1 B.
        """
        half = blas.dtrsm(1.0, self._upper, basis, trans_a=1)
        return -float(np.log(np.abs(np.diagonal(np.linalg.qr(half, mode="r")))).sum())
