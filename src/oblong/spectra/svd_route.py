"""The reference route: all singular values from LAPACK in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from oblong.spectra.rounding import bound_svd_error
from oblong.spectra.spectrum import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SvdResult:
    """All singular values of the scaled matrix, descending, and the bound on the absolute error of each."""

    singular_values: FloatArray
    error: float

    @property
    def rank(self) -> int:
        """How many are above the cut-off, which is the error bound."""
        return int(np.count_nonzero(self.singular_values > self.error))


def measure_by_svd(matrix: FloatArray) -> SvdResult | None:
    """Singular values by divide and conquer, or by QR iteration where that fails; None if both fail.

    Args:
        matrix: Shape (q, p), float64, finite.
    """
    for driver in ("gesdd", "gesvd"):
        try:
            values = scipy.linalg.svd(matrix, compute_uv=False, check_finite=False, lapack_driver=driver)
        except np.linalg.LinAlgError:
            continue
        return SvdResult(singular_values=values, error=bound_svd_error(matrix.shape, float(values[0])))
    return None
