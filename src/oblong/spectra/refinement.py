"""The smallest singular values from A itself, where those of its Gram matrix have lost their digits.

The Gram matrix squares the condition number: its smallest eigenvalues carry a relative error of eps * kappa^2. Their
eigenvectors are still nearly right, though, and ||A u|| has a relative error of eps * kappa only. So: Rayleigh-Ritz
with A on the span of the lowest vectors, widened by the residuals that the Cholesky factor has preconditioned,
until the residuals say that the smallest value is settled (a block Davidson iteration; each step squares the error).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from oblong.spectra.convergence import Closeness, bound_error
from oblong.spectra.operators import Factor, Matrix, Reading
from oblong.spectra.spectrum import FloatArray

MAX_STEPS: Final = 6

SETTLED: Final = 1e-6
"""A triplet with a smaller residual has a value good to its square; only such ones correct the log-volume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowestTriplets:
    """The lowest singular values of A, ascending.

    Attributes:
        values: Shape (k,).
        right_vectors: Shape (p, k), orthonormal columns.
        residuals: Shape (k,), ||G^-1 (G x - s^2 x)||: bounds the distance of s^2 to an eigenvalue, relative to it.
        relative_error: Bound on the relative error of the smallest value, apart from the rounding of the products.
    """

    values: FloatArray
    right_vectors: FloatArray
    residuals: FloatArray
    relative_error: float

    @property
    def num_settled(self) -> int:
        """How many triplets, from the lowest, are settled without a gap."""
        return int(np.argmax(np.append(self.residuals > SETTLED, True)))


def refine_lowest(
    matrix: Matrix, factor: Factor, basis: FloatArray, *, tolerance: float, first: Reading | None = None
) -> LowestTriplets:
    """Refine the lowest singular triplets of A.

    Args:
        matrix: A, q x p.
        factor: Cholesky factor of A^T A as computed.
        basis: Shape (p, k), orthonormal columns near the k lowest right singular vectors (see `smooth`).
        tolerance: Stop when the relative error of the smallest value is below this, or no longer falls.
        first: The products of A with `basis`, if they are known.
    """
    num_pairs = basis.shape[1]
    best: LowestTriplets | None = None
    for _ in range(MAX_STEPS):
        reading = first or matrix.multiply_twice(basis)
        first = None
        current, directions = _rayleigh_ritz(factor, basis, reading, num_pairs)
        if best is not None and current.relative_error > best.relative_error / 2:
            break
        best = current
        if current.relative_error <= tolerance:
            break
        basis = _widen(current.right_vectors, directions)
    assert best is not None
    return best


def smooth(factor: Factor, vectors: NDArray[Any]) -> FloatArray:
    """One inverse iteration: what little the vectors hold of the top, A would multiply by kappa."""
    smoothed: FloatArray = np.linalg.qr(factor.solve(vectors).astype(np.float64, copy=False))[0]
    return smoothed


def correct_log_volume(factor: Factor, triplets: LowestTriplets) -> float:
    """What to add to the factor's log-volume to put the settled values in the place of its own for the same vectors.

    det G = det(B^T G^-1 B)^-1 det(C^T G C) for orthonormal [B C], for the computed G as for the true one; when B is
    invariant, the first factor is the product of the refined s_i^2, and the second one is hardly touched by rounding.
    """
    settled = triplets.num_settled
    if settled == 0:
        return 0.0
    half = factor.half_solve(triplets.right_vectors[:, :settled])
    # -1/2 ln det(B^T G^-1 B) = -ln |det Q'| with Q Q' = R^-T B
    unrefined = -np.log(np.abs(np.diagonal(np.linalg.qr(half, mode="r")))).sum()
    return float(np.log(triplets.values[:settled]).sum() - unrefined)


def _rayleigh_ritz(
    factor: Factor, basis: FloatArray, reading: Reading, num_pairs: int
) -> tuple[LowestTriplets, FloatArray]:
    """The best approximations to the lowest triplets from the span of `basis`, and where to look for better ones."""
    _, values, rotation = np.linalg.svd(reading.product, full_matrices=False)
    lowest = slice(None, -num_pairs - 1, -1)
    values, rotation = values[lowest], rotation[lowest].T
    right = basis @ rotation
    residuals = reading.normal @ rotation - right * values**2
    # The plain residual of the smallest triplet cannot fall below eps * s_1^2, for that is the rounding of A^T A x.
    # That part lies along the top of the spectrum, where it does no harm; G^-1 takes it out.
    directions = factor.solve(residuals).astype(np.float64, copy=False)
    squares = np.sum(residuals * directions, axis=0) / values[0] ** 2
    lengths = np.linalg.norm(directions, axis=0)
    closeness = Closeness(
        distances=1.0 - (values[0] / values) ** 2, residuals=lengths, squares=np.maximum(squares, 0.0)
    )
    triplets = LowestTriplets(
        values=values, right_vectors=right, residuals=lengths, relative_error=bound_error(closeness) / 2
    )
    return triplets, directions


def _widen(basis: FloatArray, directions: FloatArray) -> FloatArray:
    """Orthonormal basis of both spans; lengths are taken out first, for the directions are short and graded."""
    directions = directions - basis @ (basis.T @ directions)
    lengths = np.linalg.norm(directions, axis=0)
    useful = directions[:, lengths > 0] / lengths[lengths > 0]
    widened: FloatArray = np.linalg.qr(np.hstack([basis, useful]))[0]
    return widened
