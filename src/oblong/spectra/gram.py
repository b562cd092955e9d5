"""The Gram matrix and its Cholesky factor on the CPU, in float64 or float32."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np

from oblong.spectra.lapack import Array, SymmetricProduct, Triangle, factorise
from oblong.spectra.spectrum import FloatArray
from oblong.spectra.workspace import Workspace

ROWS_AT_A_TIME: Final = 256


class CpuGram:
    """Implements `operators.Gram`.

    Args:
        values: G, shape (p, p), float64 or float32, C order; the upper triangle counts.
        workspace: Where the factor goes.
    """

    def __init__(self, values: Array, workspace: Workspace) -> None:
        self._values = values
        self._workspace = workspace
        self.size = values.shape[0]
        self.multiply_vector = SymmetricProduct(values)

    @cached_property
    def trace(self) -> float:
        """||A||_F^2."""
        return float(np.trace(self._values, dtype=np.float64))

    @cached_property
    def sum_of_squares(self) -> float:
        """||G||_F^2, summed in float64."""
        total = 0.0
        for start in range(0, self.size, ROWS_AT_A_TIME):
            stop = min(start + ROWS_AT_A_TIME, self.size)
            corner = np.triu(self._values[start:stop, start:stop]).astype(np.float64, copy=False)
            rest = self._values[start:stop, stop:].astype(np.float64).ravel()
            diagonal = np.diagonal(corner)
            total += 2.0 * float(np.vdot(corner, corner) + rest @ rest) - float(diagonal @ diagonal)
        return total

    def to_float32(self) -> CpuGram:
        """The same matrix rounded, to search in it at half the cost."""
        rounded = self._workspace.take("rounded gram", self._values.shape, np.float32)
        with np.errstate(all="ignore"):  # the other triangle holds anything
            np.copyto(rounded, self._values, casting="same_kind")
        return CpuGram(rounded, self._workspace)

    def factorise(self, *, overwrite: bool = False) -> CpuFactor | None:
        """Cholesky factor, or None if G is not positive definite to working precision.

        Args:
            overwrite: Whether the factor may take the place of G, of which only the sums are left then.
        """
        if overwrite:
            _ = self.trace, self.sum_of_squares
            upper = self._values
        else:
            upper = self._workspace.take("factor", self._values.shape, self._values.dtype.type)
            np.copyto(upper, self._values)
        return None if factorise(upper) is None else CpuFactor(upper)

    def compute_eigenvalues(self) -> FloatArray:
        """All eigenvalues, ascending."""
        values: FloatArray = np.linalg.eigvalsh(self._values, UPLO="U")  # type: ignore[assignment]
        return values


class CpuFactor:
    """Implements `operators.Factor`. Blocks come back in the precision of the factor.

    Args:
        upper: R in the upper triangle of a (p, p) array, C order.
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
