"""The largest eigenvalues of a symmetric operator that can only be applied to vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from oblong.spectra.convergence import Closeness, bound_error
from oblong.spectra.spectrum import FloatArray

Vector = NDArray[np.floating[Any]]
Operator = Callable[[Any], Vector]

START_SEED: Final = 20250624
NUM_STARTS: Final = 2
"""Two random starts tell a single largest eigenvalue from a cluster (convergence.py). They cost next to nothing: the
subspace needs only a few more products than from one start."""

FIRST_CHECK: Final = 12
CHECK_GROWTH: Final = 1.3
"""Checking costs O(steps^3); growing intervals keep it below the cost of the steps at the price of some extra ones."""

NUM_CHECKED: Final = 6
"""Pairs whose distances and residuals are looked at."""

BREAKDOWN: Final = 10.0
"""A next basis vector this many roundings long is rounding: its part of the subspace is exhausted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RitzPairs:
    """Approximate eigenpairs, largest eigenvalue first.

    Attributes:
        values: Shape (k,).
        vectors: Shape (p, k), orthonormal columns.
        residuals: Shape (k,), ||A v - theta v|| as the recurrence gives it.
        error: Bound on the relative error of the first eigenvalue, apart from the rounding of the operator.
        converged: Whether that is within the tolerance asked for.
    """

    values: FloatArray
    vectors: Vector
    residuals: FloatArray
    error: float
    converged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RitzEstimate:
    """The largest Ritz values of a basis, descending, coordinates of their vectors, lengths of their residuals."""

    values: FloatArray
    coordinates: FloatArray
    residuals: FloatArray

    @property
    def error(self) -> float:
        """Bound on the relative error of the first value."""
        relative = self.residuals / self.values[0]
        distances = 1.0 - self.values / self.values[0]
        return bound_error(Closeness(distances=distances, residuals=relative, squares=relative * relative))


def draw_starts(dimension: int) -> FloatArray:
    """Seeded random vectors, shape (NUM_STARTS, p) or (p, p) if that is less; neither orthogonal nor of unit length."""
    return np.random.default_rng(START_SEED).standard_normal((min(NUM_STARTS, dimension), dimension))


class KrylovBasis:
    """An orthonormal basis V of the span of b_i, A b_i, A^2 b_i, ... for the starts b_i; V^T A V is a band (Ruhe 1979).

    Args:
        operator: A.
        dimension: p.
        max_steps: Products with A at most.
        dtype: float32 or float64, that of the basis; small matrices are always float64.
    """

    def __init__(self, operator: Operator, dimension: int, max_steps: int, dtype: DTypeLike) -> None:
        self._operator = operator
        self._max_size = dimension
        self._rounding = float(np.finfo(dtype).eps)
        self._vectors = np.empty((min(max_steps + NUM_STARTS, dimension), dimension), dtype=dtype)
        self._projection = np.zeros((max_steps + NUM_STARTS, max_steps))
        self._num_vectors = 0
        self.size = 0
        self.is_finite = True
        for start in draw_starts(dimension):
            vector, _, length = self._orthogonalise(start.astype(dtype))
            self._append(vector, length)

    @property
    def is_invariant(self) -> bool:
        """Whether A leads nowhere new."""
        return self.size == self._num_vectors

    def extend(self) -> None:
        """Multiply one basis vector by A, and the rest that is new becomes a basis vector."""
        step, known = self.size, self._num_vectors
        vector, overlaps, rest = self._orthogonalise(self._operator(self._vectors[step]))
        self._projection[:known, step] = overlaps
        self.size += 1
        scale = math.sqrt(overlaps @ overlaps)
        self.is_finite = math.isfinite(rest + scale)
        if rest > BREAKDOWN * self._rounding * scale and known < self._max_size:
            self._projection[known, step] = rest
            self._append(vector, rest)

    def estimate(self) -> RitzEstimate:
        """What the basis knows of the largest eigenvalues, cheaply."""
        return estimate_largest(self._projection[: self._num_vectors, : self.size])

    def combine(self, coordinates: FloatArray) -> Vector:
        """The vectors with these coordinates in the basis, shape (p, k)."""
        result: Vector = self._vectors[: self.size].T @ coordinates.astype(self._vectors.dtype, copy=False)
        return result

    def _orthogonalise(self, vector: Vector) -> tuple[Vector, Vector, float]:
        """The part of a vector outside the basis, its overlaps with the basis, and the length of that part.

        Twice: what one pass leaves of the basis grows from step to step.
        """
        known = self._vectors[: self._num_vectors]
        overlaps = known @ vector
        rest = vector - overlaps @ known
        corrections = known @ rest
        rest -= corrections @ known
        overlaps += corrections
        return rest, overlaps, math.sqrt(rest @ rest)

    def _append(self, vector: Vector, length: float) -> None:
        np.divide(vector, length, out=self._vectors[self._num_vectors])
        self._num_vectors += 1


def estimate_largest(projection: FloatArray) -> RitzEstimate:
    """The largest Ritz values of a basis V.

    Args:
        projection: Shape (n + e, n): V^T A V, of which only the lower triangle counts, above what A V has along the e
            vectors that come next.
    """
    size = projection.shape[1]
    values, vectors = np.linalg.eigh(projection[:size])  # reads the lower triangle
    values, vectors = values[: -NUM_CHECKED - 1 : -1], vectors[:, : -NUM_CHECKED - 1 : -1]
    rests = projection[size:] @ vectors
    squares = np.einsum("ij,ij->j", rests, rests)
    return RitzEstimate(values=values, coordinates=vectors, residuals=np.sqrt(squares))


@np.errstate(over="ignore", invalid="ignore")
def compute_largest(
    operator: Operator,
    dimension: int,
    *,
    tolerance: float,
    max_steps: int,
    num_pairs: int = 1,
    dtype: DTypeLike = np.float64,
) -> RitzPairs | None:
    """Lanczos iteration from two seeded random starts, with full reorthogonalisation.

    Args:
        operator: A, symmetric positive definite; maps a (p,) vector of the dtype to a new one.
        dimension: p.
        tolerance: Relative error of the largest eigenvalue, apart from the rounding of the operator itself. A smaller
            bound is no reason to claim less.
        max_steps: Products with A at most.
        num_pairs: Pairs to return, fewer if the iteration ends sooner.
        dtype: float32 or float64.

    Returns:
        The pairs, and whether the first one converged. None if a product overflowed.
    """
    max_steps = min(max_steps, dimension)
    basis = KrylovBasis(operator, dimension, max_steps, dtype)
    next_check = FIRST_CHECK
    while True:
        basis.extend()
        if not basis.is_finite:
            return None
        is_last = basis.is_invariant or basis.size == max_steps
        if is_last or basis.size >= next_check:
            estimate = basis.estimate()
            error = estimate.error
            if is_last or error <= tolerance:
                break
            next_check = int(next_check * CHECK_GROWTH) + 1
    return RitzPairs(
        values=estimate.values[:num_pairs],
        vectors=basis.combine(estimate.coordinates[:, :num_pairs]),
        residuals=estimate.residuals[:num_pairs],
        error=error,
        converged=error <= tolerance,
    )
