"""How far the first value of a few Ritz pairs may be from the true extreme eigenvalue.

A residual r says that *an* eigenvalue is within ||r||. Two better statements need to know where the others are:

- The Rayleigh quotient errs by about ||r||^2 / gap (Kato and Temple), the gap being that to the next eigenvalue; for
  the first of a group of j pairs, by the sum of their squares over the gap from the first to the one after the group.
- While two eigenvalues are too close to be told apart, a search from one random vector sees one pair for both, with an
  error of |c_2 / c_1| times the residual, c being the components of the start along the two. A search from two random
  vectors sees two pairs: both, or two of three or more, which are seldom many residuals apart
  (design/002-error-bound.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from oblong.spectra.spectrum import FloatArray

CLUSTER_SAFETY: Final = 1000.0
"""|c_2 / c_1| exceeds 1000 once in 1600 random starts."""

SEPARATION: Final = 100.0
"""Two pairs this many residuals apart are taken for the first two; seldom they are two of three (design/002)."""

GAP_SAFETY: Final = 10.0
"""A Ritz value may be off by this many residuals when it serves to estimate a gap; also the factor on the quadratic
bound, for what such an estimate may be wrong by."""

SMALLEST_GAP: Final = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class Closeness:
    """Ritz pairs near one end of a spectrum, the extreme one first; relative to the extreme value.

    Attributes:
        distances: Shape (k,), of each value from the first one; ascending from 0.
        residuals: Shape (k,), lengths of the residuals: to first order, the errors.
        squares: Shape (k,), the squares of the residuals, in the norm that belongs in the quadratic bound.
    """

    distances: FloatArray
    residuals: FloatArray
    squares: FloatArray


def bound_error(pairs: Closeness) -> float:
    """Bound on the relative error of the extreme eigenvalue, for pairs from a search with two random starts.

    Like any statement from finitely many products with the matrix it is a probable one: it fails if the starts are
    nearly orthogonal to an eigenvector.
    """
    linear = CLUSTER_SAFETY * float(pairs.residuals[0])
    if pairs.distances.size < 2 or pairs.distances[1] <= SEPARATION * pairs.residuals[:2].max():
        return linear
    gaps = np.maximum(pairs.distances[1:] - GAP_SAFETY * pairs.residuals[1:], SMALLEST_GAP)
    quadratic = GAP_SAFETY * float((pairs.squares[:-1].cumsum() / gaps).min())
    return min(linear, quadratic)
