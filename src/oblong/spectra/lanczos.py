"""The largest eigenvalues of a symmetric operator that can only be applied to vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh_tridiagonal

from oblong.spectra.spectrum import FloatArray

Operator = Callable[[FloatArray], FloatArray]

START_SEED = 20250624
FIRST_CHECK = 8
CHECK_GROWTH = 1.3
"""Checking costs O(steps^2); growing intervals keep it below the cost of the steps at the price of some extra ones."""

CLUSTER_SAFETY = 1000.0
"""The residual proves that *an* eigenvalue is near, not that it is the largest one. While a cluster is unresolved, the
error is |c_2 / c_1| times the residual, c being the components of the random start along its members; that ratio
exceeds 1000 once in 1600 starts. Residuals fall so fast that the factor costs a few steps only."""

BREAKDOWN = 1e-15
"""A next basis vector this short, relative to A, is rounding: the basis already spans an invariant subspace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RitzPairs:
    """Approximate eigenpairs, largest eigenvalue first.

    Attributes:
        values: Shape (k,).
        vectors: Shape (p, k), orthonormal columns.
        residuals: Shape (k,), ||A v - theta v|| as the recurrence gives it.
        converged: Whether the first eigenvalue may be taken for the largest one, to the tolerance asked for.
    """

    values: FloatArray
    vectors: FloatArray
    residuals: FloatArray
    converged: bool


class KrylovBasis:
    """An orthonormal basis of span{b, A b, A^2 b, ...}, in which A is tridiagonal."""

    def __init__(self, operator: Operator, dimension: int, max_steps: int) -> None:
        self._operator = operator
        self._vectors = np.empty((max_steps, dimension))
        self._diagonal = np.empty(max_steps)
        self._off_diagonal = np.empty(max_steps)
        self._next = np.random.default_rng(START_SEED).standard_normal(dimension)
        self._next /= np.linalg.norm(self._next)
        self.size = 0
        self.is_invariant = False

    def extend(self) -> None:
        """Multiply once by A, and orthogonalise twice: one pass of Gram-Schmidt loses what it rounds itself."""
        step, self.size = self.size, self.size + 1
        self._vectors[step] = self._next
        known = self._vectors[: self.size]
        vector = self._operator(self._next)
        overlaps = known @ vector
        vector = vector - overlaps @ known
        corrections = known @ vector
        vector -= corrections @ known
        self._diagonal[step] = overlaps[step] + corrections[step]
        length = self._off_diagonal[step] = np.sqrt(vector @ vector)
        self.is_invariant = bool(length <= BREAKDOWN * self._diagonal[step])
        if not self.is_invariant:
            self._next = vector / length

    def extract(self, num_pairs: int, tolerance: float) -> RitzPairs:
        """Ritz pairs of the basis as it is now."""
        values, vectors = eigh_tridiagonal(
            self._diagonal[: self.size], self._off_diagonal[: self.size - 1], check_finite=False
        )
        order = np.arange(self.size - 1, max(self.size - 1 - num_pairs, -1), -1)
        residuals = self._off_diagonal[self.size - 1] * np.abs(vectors[-1, order])
        error = CLUSTER_SAFETY * residuals[0] / values[order[0]]
        return RitzPairs(
            values=values[order],
            vectors=self._vectors[: self.size].T @ vectors[:, order],
            residuals=residuals,
            converged=bool(error <= tolerance),
        )


def compute_largest(
    operator: Operator, dimension: int, *, tolerance: float, max_steps: int, num_pairs: int = 1
) -> RitzPairs:
    """Lanczos iteration with full reorthogonalisation, from a seeded random start.

    Args:
        operator: A, symmetric positive definite; maps a (p,) vector to a new (p,) vector.
        dimension: p.
        tolerance: Relative error of the largest eigenvalue, apart from the rounding of the operator itself. A smaller
            residual is no reason to claim less.
        max_steps: Products with A at most.
        num_pairs: Pairs to return, fewer if the iteration ends sooner.

    Returns:
        The pairs, and whether the first one converged.
    """
    max_steps = min(max_steps, dimension)
    basis = KrylovBasis(operator, dimension, max_steps)
    next_check = FIRST_CHECK
    while True:
        basis.extend()
        is_last = basis.is_invariant or basis.size == max_steps
        if is_last or basis.size >= next_check:
            pairs = basis.extract(num_pairs, tolerance)
            if is_last or pairs.converged:
                return pairs
            next_check = int(next_check * CHECK_GROWTH) + 1
