"""Singular values with a proven relative error: the truth that `scan_trust` holds kappa and its bound against.

LAPACK's float64 values are no truth for an ill-conditioned matrix: s_r is off by eps * s_1, as much as ours; Jacobi's
method in float64 (dgejsv) is better only where scaling the columns removes the condition number. So V of LAPACK is
used as a rotation only, and B = A V is formed in extended precision. B = Q D with columns of length one in Q; if
Q^T Q = I + F and V^T V = I + K, then every singular value of A is one of D times a factor between
1 -+ (||F|| + ||K||) (Ostrowski 1959). ||F|| and ||K|| are computed, so the error is known and not guessed; where
||F|| is too large, sweeps of one-sided Jacobi rotations in extended precision make it small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Extended = NDArray[np.longdouble]

EXTENDED_EPSILON: Final = float(np.finfo(np.longdouble).eps)
HAS_EXTENDED: Final = EXTENDED_EPSILON < 1e-18
"""Whether this machine's long double is more than float64: x86 and 64-bit Arm Linux, not Apple silicon."""

MAX_EASY_KAPPA: Final = 1e4
MIN_EASY_SIDE: Final = 33
"""From this short side up to that kappa float64 products are enough: they leave 1e-10, and bounds of the Gram route are
never below 1e-7."""

MAX_SWEEPS: Final = 12
STALLED: Final = 1e-14
"""Below this departure sweeps converge quadratically, and one that gains less than a factor of 2 was the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Singular values (r,), descending, of a matrix of rank r, and the relative error that s_1 / s_r may have."""

    values: Extended
    kappa_error: float

    @property
    def kappa(self) -> np.longdouble:
        """s_1 / s_r."""
        return np.longdouble(self.values[0] / self.values[-1])


def compute_truth(matrix: NDArray[np.floating[Any]], *, always_extended: bool = False) -> Truth:
    """Certified singular values of a matrix of full rank.

    Args:
        matrix: Shape (m, n), any float; finite, of full rank. Scale it to about 1 before.
        always_extended: Whether to take no shortcut: for matrices that the SVD route will measure.

    Returns:
        Singular values, and their error.

    Raises:
        RuntimeError: This machine's long double is no better than float64, and this matrix needs it.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    _, values, rotation = scipy.linalg.svd(tall.astype(np.float64), full_matrices=False)
    is_easy = values[0] <= MAX_EASY_KAPPA * values[-1] and values.size >= MIN_EASY_SIDE
    is_easy = is_easy and not always_extended
    if not is_easy and not HAS_EXTENDED:
        raise RuntimeError("the truth of small or ill-conditioned matrices needs an 80-bit or 128-bit long double")
    working: type[np.floating[Any]] = np.float64 if is_easy else np.longdouble
    turn = _improve(rotation.T.astype(working))
    turned, departure = orthogonalise(tall.astype(working) @ turn)
    lengths = np.sort(_norms(turned).astype(np.longdouble))[::-1]
    rounding = 4 * float(np.finfo(working).eps) * math.sqrt(lengths.size) * float(lengths[0] / lengths[-1])
    return Truth(values=lengths, kappa_error=2 * (departure + _measure_departure(turn)) + rounding)


def orthogonalise(columns: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """Columns (q, p) turned until they are as orthogonal as rounding lets them be, and ||Q^T Q - I||_F then."""
    departure = _measure_departure(columns / _norms(columns))
    enough = _rounding_of_departure(columns)
    for _ in range(MAX_SWEEPS):
        if departure <= enough:
            break
        swept = sweep(columns)
        left = _measure_departure(swept / _norms(swept))
        is_stalled = departure / 2 < left < STALLED
        columns, departure = swept, left
        if is_stalled:
            break
    return columns, departure


def _rounding_of_departure(columns: NDArray[Any]) -> float:
    """Above this a sweep is worth its time: 1e-10 in float64, 1e-17 or so in extended precision."""
    if columns.dtype == np.float64:
        return 1e-10
    return 4.0 * EXTENDED_EPSILON * float(columns.shape[1])


def _measure_departure(unit: NDArray[Any]) -> float:
    gram = unit.T @ unit
    return math.sqrt(float(np.square(gram - np.eye(len(gram), dtype=gram.dtype)).sum()))


def _improve(rotation: NDArray[Any]) -> NDArray[Any]:
    """One Newton step V (3 I - V^T V) / 2 towards the nearest orthogonal matrix: the error is squared."""
    improved: NDArray[Any] = rotation @ (3 * np.eye(len(rotation), dtype=rotation.dtype) - rotation.T @ rotation) / 2
    return improved


def sweep(columns: NDArray[Any]) -> NDArray[Any]:
    """One round robin of Jacobi rotations over all pairs of columns, p / 2 disjoint pairs at a time."""
    rows = columns.T.copy()
    order = np.arange(len(rows) + len(rows) % 2)  # an odd column out plays against nobody
    for _ in range(len(order) - 1):
        first, second = order[: len(order) // 2], order[: len(order) // 2 - 1 : -1]
        both = (first < len(rows)) & (second < len(rows))
        _rotate(rows, first[both], second[both])
        order = np.concatenate((order[:1], order[-1:], order[1:-1]))
    return rows.T


def _rotate(rows: NDArray[Any], first: NDArray[np.intp], second: NDArray[np.intp]) -> None:
    """Make each pair of rows orthogonal by a plane rotation, in place. Source: Demmel 1997, algorithm 5.13."""
    x, y = rows[first], rows[second]
    product = (x * y).sum(axis=1)
    apart = product != 0
    x, y, product = x[apart], y[apart], product[apart]
    zeta = ((y * y).sum(axis=1) - (x * x).sum(axis=1)) / (2 * product)
    tangent = np.where(zeta >= 0, 1, -1) / (np.abs(zeta) + np.sqrt(1 + zeta * zeta))
    cosine = 1 / np.sqrt(1 + tangent * tangent)
    sine = (cosine * tangent)[:, None]
    rows[first[apart]] = cosine[:, None] * x - sine * y
    rows[second[apart]] = sine * x + cosine[:, None] * y


def _norms(columns: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.sqrt((columns * columns).sum(axis=0)))
