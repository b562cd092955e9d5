"""The fast route: extreme singular values and log-volume from the Gram matrix of the short side.

One `syrk`, one `potrf`, Lanczos with G for s_1, Lanczos with G^-1 for s_min: a few per cent more than the two matrix
operations, where a singular value decomposition costs five to twenty times as much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import blas

from oblong.spectra.factor import CholeskyFactor
from oblong.spectra.lanczos import CLUSTER_SAFETY, compute_largest
from oblong.spectra.refinement import correct_log_volume, refine_lowest
from oblong.spectra.rounding import bound_gram_error, bound_product_error, combine
from oblong.spectra.spectrum import FloatArray
from oblong.spectra.tall import TallMatrix

MAX_LANCZOS_STEPS: Final = 400
NUM_REFINED: Final = 6
NEARLY_INVARIANT: Final = 1e-2

GRAM_LIMIT: Final = 0.05
"""Above this relative error of G's smallest eigenvalue the factor is no longer a useful preconditioner."""

FULL_TOLERANCE: Final = 1e-6
"""Relative error allowed to each singular value of a full spectrum taken from the Gram matrix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GramResult:
    """Everything in units of the scaled matrix A; errors are relative bounds."""

    sigma_max: float
    sigma_min: float
    kappa_error: float
    log_volume: float
    frobenius_norm: float
    participation_ratio: float
    singular_values: FloatArray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowest:
    """The lowest singular values of A, ascending, and how far the first may be off."""

    values: FloatArray
    relative_error: float
    log_volume_correction: float


def measure_by_gram(matrix: TallMatrix, *, full: bool, tolerance: float) -> GramResult | None:
    """Measure A through A^T A.

    Args:
        matrix: A, q x p with q >= p.
        full: Whether to return all singular values.
        tolerance: Relative error of kappa at which the iterations stop; rounding may leave more.

    Returns:
        The result, or None where only a singular value decomposition can be trusted.
    """
    gram = matrix.compute_gram()
    try:
        factor = CholeskyFactor(gram)
    except np.linalg.LinAlgError:
        return None
    frobenius_norm = math.sqrt(np.trace(gram))
    top = compute_largest(
        lambda vector: blas.dsymv(1.0, gram.T, vector),
        matrix.num_columns,
        tolerance=tolerance,
        max_steps=MAX_LANCZOS_STEPS,
    )
    sigma_max = math.sqrt(top.values[0])
    gram_error = bound_gram_error(matrix.num_rows, frobenius_norm, sigma_max)
    lowest = find_lowest(matrix, factor, gram_error, frobenius_norm, sigma_max, tolerance=tolerance)
    if lowest is None or not top.converged:
        return None
    values = None
    if full:
        values = compute_all(gram, gram_error, lowest.values, sigma_max)
        if values is None:
            return None
    return GramResult(
        sigma_max=sigma_max,
        sigma_min=float(lowest.values[0]),
        kappa_error=combine((top.largest_error + gram_error / sigma_max**2) / 2, lowest.relative_error),
        log_volume=factor.log_volume + lowest.log_volume_correction,
        frobenius_norm=frobenius_norm,
        participation_ratio=frobenius_norm**4 / float(np.vdot(gram, gram)),
        singular_values=values,
    )


def find_lowest(
    matrix: TallMatrix,
    factor: CholeskyFactor,
    gram_error: float,
    frobenius_norm: float,
    sigma_max: float,
    *,
    tolerance: float,
) -> Lowest | None:
    """The lowest singular values: from the factor where that is good enough, else refined; None beyond repair."""
    inverse = compute_largest(
        factor.solve_vector,
        matrix.num_columns,
        tolerance=tolerance,
        max_steps=MAX_LANCZOS_STEPS,
        num_pairs=NUM_REFINED,
    )
    rounding = gram_error * float(inverse.values[0])
    if rounding > GRAM_LIMIT:
        return None
    if inverse.converged and rounding <= tolerance:
        return Lowest(
            values=1.0 / np.sqrt(inverse.values[:1]),
            relative_error=(inverse.largest_error + rounding) / 2,
            log_volume_correction=0.0,
        )
    start = inverse.vectors[:, inverse.residuals <= NEARLY_INVARIANT * inverse.values]
    if start.shape[1] == 0:
        return None
    triplets = refine_lowest(matrix, factor, start, tolerance=tolerance / 2)
    floor = bound_product_error(matrix.num_columns, frobenius_norm, sigma_max) / float(triplets.values[0])
    if triplets.relative_error > max(tolerance, CLUSTER_SAFETY * floor):
        return None
    return Lowest(
        values=triplets.values,
        relative_error=triplets.relative_error + floor,
        log_volume_correction=correct_log_volume(factor, triplets),
    )


def compute_all(gram: FloatArray, gram_error: float, lowest: FloatArray, sigma_max: float) -> FloatArray | None:
    """All singular values, descending; None if one that was not refined is off by more than FULL_TOLERANCE."""
    eigenvalues = np.linalg.eigvalsh(gram)
    first_unrefined = eigenvalues[min(lowest.size, eigenvalues.size - 1)]
    if gram_error > 2 * FULL_TOLERANCE * first_unrefined:
        return None
    values: FloatArray = np.sqrt(eigenvalues[::-1])
    values[-lowest.size :] = lowest[::-1]
    values[0] = sigma_max
    return values
