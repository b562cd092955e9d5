"""Lanczos for a whole stack of operators at once, on the device; the same iteration, start and test as lanczos.py.

Only the tridiagonal coefficients come to the host, at the checks: two numbers per member and step. Members that have
converged go on with the others, which changes nothing about what was taken from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh_tridiagonal

from oblong.spectra.lanczos import BREAKDOWN, CHECK_GROWTH, CLUSTER_SAFETY, FIRST_CHECK, START_SEED, RitzPairs
from oblong.spectra.spectrum import FloatArray

if TYPE_CHECKING:
    import torch

    StackOperator = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class KrylovResult:
    """What the iteration found out about one member.

    Attributes:
        largest: The largest Ritz value; infinite where the products overflowed.
        converged: Whether it may be taken for the largest eigenvalue, to the tolerance asked for.
        diagonal: Shape (k,), of the tridiagonal matrix.
        off_diagonal: Shape (k,); the last one is the length of the residual of the basis.
        basis: Shape (k, p), orthonormal rows, on the device.
    """

    largest: float
    converged: bool
    diagonal: FloatArray
    off_diagonal: FloatArray
    basis: torch.Tensor

    def extract(self, num_pairs: int) -> RitzPairs:
        """The pairs of `lanczos.compute_largest`; the vectors are made here, for few members need them."""
        values, vectors = eigh_tridiagonal(self.diagonal, self.off_diagonal[:-1], check_finite=False)
        wanted = slice(None, -num_pairs - 1, -1)
        return RitzPairs(
            values=values[wanted],
            vectors=_combine(self.basis, vectors[:, wanted]),
            residuals=self.off_diagonal[-1] * np.abs(vectors[-1, wanted]),
            converged=self.converged,
        )


class StackedBasis:
    """For every member, an orthonormal basis of span{b, A b, A^2 b, ...}, in which A is tridiagonal."""

    def __init__(self, operator: StackOperator, like: torch.Tensor, max_steps: int) -> None:
        num_members, dimension = like.shape[0], like.shape[-1]
        self._operator = operator
        self._vectors = like.new_empty((num_members, max_steps, dimension))
        # Diagonal and off-diagonal in one tensor, fetched together.
        self._coefficients = like.new_empty((num_members, 2, max_steps))
        self._next = _make_start(like, dimension).expand(num_members, dimension, 1)
        self.size = 0

    def extend(self) -> None:
        """Multiply once by A, and orthogonalise twice, as `lanczos.KrylovBasis` does."""
        step, self.size = self.size, self.size + 1
        self._vectors[:, step] = self._next[:, :, 0]
        known = self._vectors[:, : self.size]
        vector = self._operator(self._next)
        overlaps = known @ vector
        vector = vector.baddbmm(known.mT, overlaps, alpha=-1.0)
        corrections = known @ vector
        vector = vector.baddbmm(known.mT, corrections, alpha=-1.0)
        length = vector.norm(dim=1)
        self._coefficients[:, 0, step] = overlaps[:, step, 0] + corrections[:, step, 0]
        self._coefficients[:, 1, step] = length[:, 0]
        # After a breakdown this is noise or NaN; the member's own coefficients tell, and it is cut off before.
        self._next = vector / length[:, :, None]

    def fetch(self) -> FloatArray:
        """The coefficients so far, shape (b, 2, size): the one synchronisation of a check."""
        found: FloatArray = self._coefficients[:, :, : self.size].cpu().numpy()
        return found

    def take(self, member: int, size: int) -> torch.Tensor:
        """The first `size` vectors of a member."""
        return self._vectors[member, :size]


def compute_largest_stacked(
    operator: StackOperator, like: torch.Tensor, members: Sequence[int], *, tolerance: float, max_steps: int
) -> dict[int, KrylovResult]:
    """The largest eigenvalue of every member of a stack of operators.

    Args:
        operator: Maps (b, p, 1) to a new (b, p, 1), each member by its own symmetric positive definite A.
        like: Shape (b, p, p), float64: sizes and device.
        members: Indices of those that are wanted; the others may hold anything, NaN included.
        tolerance: See `lanczos.compute_largest`.
        max_steps: See `lanczos.compute_largest`.

    Returns:
        A result for each wanted member.
    """
    max_steps = min(max_steps, like.shape[-1])
    basis = StackedBasis(operator, like, max_steps)
    finished: dict[int, KrylovResult] = {}
    next_check = FIRST_CHECK
    while len(finished) < len(members):
        basis.extend()
        is_last = basis.size == max_steps
        if not is_last and basis.size < next_check:
            continue
        next_check = int(next_check * CHECK_GROWTH) + 1
        coefficients = basis.fetch()
        for member in members:
            if member not in finished:
                found = _judge(basis, member, coefficients[member], tolerance=tolerance, is_last=is_last)
                finished |= {member: found} if found else {}
    return finished


def _judge(
    basis: StackedBasis, member: int, coefficients: FloatArray, *, tolerance: float, is_last: bool
) -> KrylovResult | None:
    """The result of a member; None while it has to go on."""
    broken = np.flatnonzero(coefficients[1] <= BREAKDOWN * coefficients[0])
    size = int(broken[0]) + 1 if broken.size else coefficients.shape[1]
    diagonal, off_diagonal = coefficients[:, :size].copy()
    # The inverse of a nearly singular matrix may be beyond float64: too much for the Gram route in any case.
    is_lost = not np.isfinite(coefficients[:, :size]).all()
    largest, last_component = (math.inf, 1.0) if is_lost else _find_top(diagonal, off_diagonal)
    converged = not is_lost and CLUSTER_SAFETY * off_diagonal[-1] * last_component / largest <= tolerance
    if not (converged or broken.size or is_lost or is_last):
        return None
    return KrylovResult(
        largest=largest,
        converged=bool(converged),
        diagonal=diagonal,
        off_diagonal=off_diagonal,
        basis=basis.take(member, size),
    )


def _find_top(diagonal: FloatArray, off_diagonal: FloatArray) -> tuple[float, float]:
    """The largest Ritz value, and the size of the last component of its vector."""
    top = diagonal.size - 1
    values, vectors = eigh_tridiagonal(
        diagonal, off_diagonal[:-1], select="i", select_range=(top, top), check_finite=False
    )
    return float(values[0]), float(abs(vectors[-1, 0]))


def _make_start(like: torch.Tensor, dimension: int) -> torch.Tensor:
    import torch

    start = np.random.default_rng(START_SEED).standard_normal(dimension)
    return torch.from_numpy(start / np.linalg.norm(start)).to(like.device)[None, :, None]


def _combine(basis: torch.Tensor, coordinates: FloatArray) -> FloatArray:
    import torch

    weights = torch.from_numpy(np.ascontiguousarray(coordinates)).to(basis.device)
    combined: FloatArray = (basis.mT @ weights).cpu().numpy()
    return combined
