"""How far float64 arithmetic can be off: the constants behind every error bound, and where they come from.

Worst-case bounds grow with the number of additions and overstate the error of blocked, fused summation by orders of
magnitude. These are statistical ones: the size that independent roundings reach, times a safety factor that was checked
against higher precision on prescribed spectra (design/002-error-bound.md).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

EPSILON: Final = float(np.finfo(np.float64).eps)

GRAM_SAFETY: Final = 2.0
PRODUCT_SAFETY: Final = 2.0


def bound_gram_error(num_rows: int, frobenius_norm: float, sigma_max: float) -> float:
    """Bound on ||E||_2, where the computed Gram matrix and its Cholesky factor belong to A^T A + E.

    Independent roundings give eps * ||A||_F^2; entries of one sign, whose partial sums grow instead of cancelling,
    give up to eps * sqrt(q) * s_1^2.
    """
    return GRAM_SAFETY * EPSILON * (frobenius_norm**2 + math.sqrt(num_rows) * sigma_max**2)


def bound_product_error(num_columns: int, frobenius_norm: float, sigma_max: float) -> float:
    """Bound on ||fl(A x) - A x||_2 for a unit vector x."""
    return PRODUCT_SAFETY * EPSILON * (frobenius_norm + math.sqrt(num_columns) * sigma_max)


def bound_svd_error(shape: tuple[int, int], sigma_max: float) -> float:
    """Bound on the error of each singular value from LAPACK; also the cut-off below which one counts as zero."""
    return max(shape) * EPSILON * sigma_max


def combine(*relative_errors: float) -> float:
    """Relative error of a quotient whose parts are off by these: conservative to all orders, at most 1e6.

    A part that may be off by all of itself says nothing; the cap keeps such a bound finite, and no smaller than any
    error that the rank cut-off leaves possible in practice.
    """
    total = sum(relative_errors)
    return min(total / (1.0 - total), MEANINGLESS) if total < 1.0 else MEANINGLESS


MEANINGLESS: Final = 1e6
