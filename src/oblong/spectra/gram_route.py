"""The fast route: extreme singular values and log-volume from the Gram matrix of the short side.

One `syrk`, one `potrf`, Lanczos with G for s_1, Lanczos with G^-1 for s_min: a little more than the two matrix
operations, where a singular value decomposition costs five to twenty times as much. Squaring A loses digits at the
bottom of the spectrum; how many is known, and refinement.py brings them back (design/002-error-bound.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from oblong.spectra.convergence import CLUSTER_SAFETY, Closeness, bound_error
from oblong.spectra.lanczos import RitzPairs, compute_largest
from oblong.spectra.operators import Factor, Gram, Matrix
from oblong.spectra.refinement import LowestTriplets, correct_log_volume, refine_lowest, smooth
from oblong.spectra.rounding import bound_gram_error, bound_product_error, combine
from oblong.spectra.spectrum import FloatArray

MAX_LANCZOS_STEPS: Final = 400
MARGIN: Final = 1e-3
"""Share of the tolerance at which a float64 iteration stops: a few steps more, and kappa is as good as its rounding,
the same for c W as for W."""

NUM_REFINED: Final = 6

NEARLY_INVARIANT: Final = 1e-2
"""Relative residual of a Lanczos vector that is worth starting a refinement from."""

FLOAT32_SIDE: Final = 1024
"""From this short side on G no longer fits into the cache, and a product with it costs what reading it does."""

FLOAT32_MARGIN: Final = 0.03
"""Share of the tolerance at which a float32 iteration stops, so that the check in float64 usually passes."""

GRAM_LIMIT: Final = 0.05
"""Above this relative error of G's smallest eigenvalue the factor is no longer a safe preconditioner."""

FULL_TOLERANCE: Final = 1e-6
"""Relative error allowed to each singular value of a full spectrum taken from the Gram matrix."""

LOG_VOLUME_TOLERANCE: Final = 1e-8
"""Error allowed to the log-volume per singular value, nats: that of a relative error of each."""

CHEAP_SIDE: Final = 256
CHEAP_LOG_VOLUME_TOLERANCE: Final = 1e-9
"""Up to this short side the singular value decomposition costs milliseconds, so more can be asked."""

NUM_PROBES: Final = 8
PROBE_SEED: Final = 20250625


@dataclass(frozen=True, slots=True, kw_only=True)
class GramResult:
    """Everything in the unit of the scaled matrix A; the error is relative."""

    sigma_max: float
    sigma_min: float
    kappa_error: float
    log_volume: float
    log_volume_error: float
    frobenius_norm: float
    participation_ratio: float
    singular_values: FloatArray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowest:
    """The lowest singular values of A that are known, ascending, and how far the first one may be off, relatively."""

    values: FloatArray
    relative_error: float
    log_volume: float
    log_volume_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The sizes that the rounding errors of A^T A and A x come from."""

    num_rows: int
    num_columns: int
    frobenius_norm: float
    sigma_max: float

    @property
    def gram_error(self) -> float:
        """Bound on the spectral norm of the error of A^T A and of its factor."""
        return bound_gram_error(self.num_rows, self.frobenius_norm, self.sigma_max)

    @property
    def product_error(self) -> float:
        """Bound on the norm of the error of A x, ||x|| = 1."""
        return bound_product_error(self.num_columns, self.frobenius_norm, self.sigma_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What the iterations found in A^T A; whether it may be trusted is for `decide` to say.

    Attributes:
        gram: A^T A.
        factor: Its Cholesky factor.
        top: The largest eigenvalue of A^T A; None if a product overflowed.
        inverse: The largest eigenvalues of its inverse, likewise.
    """

    gram: Gram
    factor: Factor
    top: RitzPairs | None
    inverse: RitzPairs | None


def measure_by_gram(matrix: Matrix, *, full: bool, tolerance: float) -> GramResult | None:
    """Measure A through A^T A.

    Args:
        matrix: A, q x p with q >= p.
        full: Whether to return all singular values.
        tolerance: Relative error of kappa at which the iterations stop; rounding may leave more.

    Returns:
        The result, or None where only a singular value decomposition can be trusted.
    """
    gram = matrix.compute_gram()
    search = partial(
        compute_largest,
        dimension=matrix.num_columns,
        tolerance=MARGIN * tolerance,
        max_steps=MAX_LANCZOS_STEPS,
    )
    top = find_top_by_float32(gram, matrix.num_columns, tolerance=tolerance)
    if top is None or not top.converged:
        top = search(gram.multiply_vector)
    factor = gram.factorise(overwrite=not full)
    if factor is None:
        return None
    inverse = search(factor.solve_vector, num_pairs=NUM_REFINED)
    found = Search(gram=gram, factor=factor, top=top, inverse=inverse)
    return decide(matrix, found, full=full, tolerance=tolerance)


def find_top_by_float32(gram: Gram, size: int, *, tolerance: float) -> RitzPairs | None:
    """The largest eigenvalue of a large G: sought in float32, and judged by one product in float64.

    Args:
        gram: G.
        size: p.
        tolerance: Relative error that passes.

    Returns:
        One pair; None if the matrix is small, or the search failed.
    """
    rounded = gram.to_float32() if size >= FLOAT32_SIDE else None
    if rounded is None:
        return None
    rough = compute_largest(
        rounded.multiply_vector,
        size,
        tolerance=FLOAT32_MARGIN * tolerance,
        max_steps=MAX_LANCZOS_STEPS,
        num_pairs=2,
        dtype=np.float32,
    )
    if rough is None or not rough.converged:
        return None
    vector = rough.vectors[:, 0].astype(np.float64)
    vector /= np.linalg.norm(vector)
    product = gram.multiply_vector(vector)
    value = float(vector @ product)
    length = float(np.linalg.norm(product - value * vector))
    error = bound_first(rough, (length / value) ** 2, (length / value) ** 2)
    return RitzPairs(
        values=np.array([value]),
        vectors=vector[:, None],
        residuals=np.array([length]),
        error=error,
        converged=error <= tolerance,
    )


def bound_first(pairs: RitzPairs, squared_length: float, square: float) -> float:
    """Bound on the relative error of the first eigenvalue, whose residual was measured in float64.

    Args:
        pairs: What the search found, the first two at least: the gap between them counts.
        squared_length: Of the residual (`Closeness.residuals`).
        square: The same in the norm that belongs in the quadratic bound (`Closeness.squares`).
    """
    values = pairs.values[:2]
    others = pairs.residuals[1:2] / values[0]
    closeness = Closeness(
        distances=1.0 - values / values[0],
        residuals=np.append(math.sqrt(squared_length), others),
        squares=np.append(max(square, 0.0), others**2),
    )
    return bound_error(closeness)


def decide(matrix: Matrix, found: Search, *, full: bool, tolerance: float) -> GramResult | None:
    """The measures of A from what a search found, refined with A where that is needed; see `measure_by_gram`."""
    if found.top is None or found.inverse is None or not found.top.converged:
        return None
    scale = Scale(
        num_rows=matrix.num_rows,
        num_columns=matrix.num_columns,
        frobenius_norm=math.sqrt(found.gram.trace),
        sigma_max=math.sqrt(found.top.values[0]),
    )
    lowest = decide_lowest(matrix, found.factor, found.inverse, scale, tolerance=tolerance)
    if lowest is None:
        return None
    values = compute_all(found.gram, scale, lowest.values) if full else None
    if full and values is None:
        return None
    top_error = (tolerance + scale.gram_error / scale.sigma_max**2) / 2
    return GramResult(
        sigma_max=scale.sigma_max,
        sigma_min=float(lowest.values[0]),
        kappa_error=combine(top_error, lowest.relative_error),
        log_volume=lowest.log_volume,
        log_volume_error=lowest.log_volume_error,
        frobenius_norm=scale.frobenius_norm,
        participation_ratio=scale.frobenius_norm**4 / found.gram.sum_of_squares,
        singular_values=values,
    )


def decide_lowest(
    matrix: Matrix, factor: Factor, inverse: RitzPairs, scale: Scale, *, tolerance: float
) -> Lowest | None:
    """The smallest singular value and the log-volume: from the factor if that is good enough, else refined with A."""
    rounding = scale.gram_error * float(inverse.values[0])
    if rounding > GRAM_LIMIT:
        return None
    # tr(G^-1) <= p / s_min^2 in `estimate_log_volume_error`
    log_volume_error = rounding * math.sqrt(scale.num_columns) / 2
    is_precise = rounding <= tolerance and log_volume_error <= allow_log_volume_error(scale.num_columns)
    if inverse.converged and is_precise:
        return Lowest(
            values=1.0 / np.sqrt(inverse.values[:1]),
            relative_error=(tolerance + rounding) / 2,
            log_volume=factor.log_volume,
            log_volume_error=log_volume_error,
        )
    return refine(matrix, factor, inverse, scale, tolerance=tolerance)


def refine(matrix: Matrix, factor: Factor, inverse: RitzPairs, scale: Scale, *, tolerance: float) -> Lowest | None:
    """The lowest values from A itself; None if the refinement stalls above what rounding explains."""
    useful = inverse.residuals <= NEARLY_INVARIANT * inverse.values
    if not useful[0]:
        return None
    useful[:2] = True  # the second tells how far away it is
    basis = smooth(factor, inverse.vectors[:, useful])
    triplets = refine_lowest(matrix, factor, basis, tolerance=MARGIN * tolerance)
    rounding = scale.product_error / float(triplets.values[0])
    if triplets.relative_error > max(tolerance, CLUSTER_SAFETY * rounding):
        return None
    log_volume = factor.log_volume + correct_log_volume(factor, triplets)
    log_volume_error = estimate_log_volume_error(factor, triplets, scale)
    if log_volume_error > allow_log_volume_error(scale.num_columns):
        return None
    return Lowest(
        values=triplets.values,
        relative_error=max(triplets.relative_error, tolerance / 2) + rounding,
        log_volume=log_volume,
        log_volume_error=log_volume_error,
    )


def allow_log_volume_error(num_values: int) -> float:
    """Largest error of the sum of so many logarithms that passes."""
    return num_values * (LOG_VOLUME_TOLERANCE if num_values > CHEAP_SIDE else CHEAP_LOG_VOLUME_TOLERANCE)


def estimate_log_volume_error(factor: Factor, triplets: LowestTriplets, scale: Scale) -> float:
    """Error that the Gram matrix leaves in the log-volume outside the corrected vectors.

    To first order it is 1/2 tr(G^-1 E), E the rounding error of G. Its entries are independent of G's eigenvectors, so
    it is of the order of ||E||_2 / sqrt(p) times the trace of G^-1, which random signs estimate (Hutchinson 1990).
    """
    p = scale.num_columns
    signs = np.random.default_rng(PROBE_SEED).choice((-1.0, 1.0), (p, NUM_PROBES))
    settled = triplets.right_vectors[:, : triplets.num_settled]
    half = factor.half_solve(signs - settled @ (settled.T @ signs))
    trace = float(np.vdot(half, half)) / NUM_PROBES
    return scale.gram_error / math.sqrt(p) * trace / 2


def compute_all(gram: Gram, scale: Scale, lowest: FloatArray) -> FloatArray | None:
    """All singular values, descending; None if one that was not refined may be off by more than FULL_TOLERANCE."""
    eigenvalues = gram.compute_eigenvalues()
    smallest_unrefined = eigenvalues[min(lowest.size, eigenvalues.size - 1)]
    if scale.gram_error > 2 * FULL_TOLERANCE * smallest_unrefined:
        return None
    values: FloatArray = np.sqrt(eigenvalues[::-1])
    values[-lowest.size :] = lowest[::-1]
    values[0] = scale.sigma_max
    return values
