"""What is found out about the singular values of one matrix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]


class Outcome(StrEnum):
    """How the computation ended. Numbers exist only for OK and RANK_DEFICIENT.

    NOT_CONVERGED also stands for a matrix whose Frobenius norm is beyond float64.
    """

    OK = "ok"
    RANK_DEFICIENT = "rank_deficient"
    ZERO = "zero"
    NON_FINITE = "non_finite"
    NOT_CONVERGED = "not_converged"


class Method(StrEnum):
    """Which route gave the numbers."""

    GRAM = "gram"
    MIXED = "mixed"
    SVD = "svd"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spectrum:
    """The spectrum of one m x n matrix of numerical rank r: s_1 >= ... >= s_r > 0.

    Every number is None unless `is_measured`. Lengths are in the unit of the matrix, logarithms in nats.

    Attributes:
        outcome: How the computation ended.
        shape: (m, n).
        method: The route that was trusted; None when there are no numbers.
        rank: r, the number of singular values above max(m, n) * eps * s_1.
        sigma_max: s_1.
        sigma_min: s_r, the smallest non-zero singular value.
        kappa: s_1 / s_r (Eq. 1).
        kappa_full: s_1 / s_min(m, n); None when the matrix is singular.
        kappa_error: Bound on |kappa - true kappa| / true kappa, from the arithmetic alone.
        log_volume: Sum of ln s_i over the r non-zero values (Eq. 8).
        log_volume_error: Estimate of how far that may be off, nats.
        frobenius_norm: sqrt(sum s_i^2).
        participation_ratio: (sum s_i^2)^2 / sum s_i^4, between 1 and r.
        singular_values: All min(m, n) values, descending; only when asked for, or when the SVD route ran.
    """

    outcome: Outcome
    shape: tuple[int, int]
    method: Method | None = None
    rank: int = 0
    sigma_max: float | None = None
    sigma_min: float | None = None
    kappa: float | None = None
    kappa_full: float | None = None
    kappa_error: float | None = None
    log_volume: float | None = None
    log_volume_error: float | None = None
    frobenius_norm: float | None = None
    participation_ratio: float | None = None
    singular_values: FloatArray | None = None

    @property
    def is_measured(self) -> bool:
        """Whether the numbers exist."""
        return self.outcome in (Outcome.OK, Outcome.RANK_DEFICIENT)
