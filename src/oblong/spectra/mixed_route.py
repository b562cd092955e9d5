"""The fastest route: float32 proposes, float64 decides.

The Gram matrix, its factor and the iterations are float32, at half the cost of float64 or less. They yield directions
only. Every number comes from float64 products with A itself on those directions, read once, panel by panel: the
extreme singular values by Rayleigh-Ritz, their error bounds from the residuals, and the log-volume from the factor's
plus an estimate of what the factor has wrong. What does not pass goes to the float64 route, so the error bound is the
same (design/005-mixed-precision.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from oblong.spectra.convergence import Closeness, bound_error
from oblong.spectra.gram import CpuFactor, CpuGram
from oblong.spectra.gram_route import MAX_LANCZOS_STEPS, GramResult, Scale
from oblong.spectra.lanczos import compute_largest
from oblong.spectra.null import compute_null
from oblong.spectra.operators import Reading
from oblong.spectra.refinement import LowestTriplets, refine_lowest, smooth
from oblong.spectra.rounding import combine
from oblong.spectra.spectrum import FloatArray
from oblong.spectra.tall import TallMatrix

SMALLEST_SIDE: Final = 320
"""Below, the iterations cost more than the Gram matrix, and float32 saves nothing."""

HOPELESS_KAPPA: Final = 300.0
"""The float32 factor of a matrix with a kappa of some 1000 breaks down, or comes out too far off to be of use. Shapes
that have such a kappa by chance, the square ones, are not worth trying."""

PROPOSAL_MARGIN: Final = 0.1
"""Share of the tolerance at which the float32 iterations stop, so that the first check in float64 usually passes."""

NUM_TOP: Final = 3
NUM_LOW: Final = 4
NUM_PROBES: Final = 10
PROBE_SEED: Final = 20250626
PROBE_SAFETY: Final = 4.0
"""Standard errors that the estimate of the log-volume is allowed to be off by."""

LOG_VOLUME_TOLERANCE: Final = 1e-7
"""Error allowed to the log-volume per singular value, nats: that of a relative error of each, as for kappa."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Directions from float32, float64 arrays of unit columns but for the probes.

    Attributes:
        top: Shape (p, k), near the largest right singular vectors.
        low: Shape (p, l), near the smallest ones.
        probes: Shape (p, n), R^-1 z for random signs z.
    """

    top: FloatArray
    low: FloatArray
    probes: FloatArray

    def read(self, matrix: TallMatrix) -> tuple[Reading, Reading, FloatArray]:
        """The products of A with `top` and with `low`, and A B for the probes, from one reading of A."""
        reading = matrix.multiply_twice(np.hstack([self.top, self.low]), self.probes)
        split = self.top.shape[1]
        top, low = (
            replace(reading, product=reading.product[:, columns], normal=reading.normal[:, columns])
            for columns in (slice(split), slice(split, None))
        )
        return top, low, reading.also


def is_promising(matrix: TallMatrix) -> bool:
    """Whether float32 is worth trying."""
    if matrix.num_columns < SMALLEST_SIDE or not matrix.is_exact_in_float32:
        return False
    return compute_null((matrix.num_rows, matrix.num_columns)).median_kappa < HOPELESS_KAPPA


def measure_by_mixed(matrix: TallMatrix, *, tolerance: float) -> GramResult | None:
    """Measure A by a float32 Gram matrix and float64 products.

    Args:
        matrix: A, q x p with q >= p.
        tolerance: Relative error of kappa at which the iterations stop.

    Returns:
        The result, or None where float32 is not good enough.
    """
    gram = matrix.compute_float32_gram()
    factor = gram.factorise()
    proposal = None if factor is None else propose(gram, factor, tolerance=tolerance)
    if factor is None or proposal is None:
        return None
    top, low, probes = proposal.read(matrix)
    sigma_max, top_error = find_largest(proposal.top, top)
    triplets = refine_lowest(matrix, factor, proposal.low, tolerance=tolerance / 2, first=low)
    correction, log_volume_error = estimate_correction(factor, proposal.probes, probes)
    is_precise = max(top_error, triplets.relative_error) <= tolerance / 2
    if not is_precise or log_volume_error > LOG_VOLUME_TOLERANCE * matrix.num_columns:
        return None
    frobenius_norm = math.sqrt(top.sum_of_squares)
    return GramResult(
        sigma_max=sigma_max,
        sigma_min=float(triplets.values[0]),
        kappa_error=bound_kappa_error(matrix, triplets, sigma_max, frobenius_norm, tolerance),
        log_volume=factor.log_volume + correction,
        frobenius_norm=frobenius_norm,
        participation_ratio=frobenius_norm**4 / gram.sum_of_squares,
        singular_values=None,
    )


def propose(gram: CpuGram, factor: CpuFactor, *, tolerance: float) -> Proposal | None:
    """Directions of both ends; None if an iteration does not converge."""
    p = gram.size
    search = partial(
        compute_largest,
        dimension=p,
        tolerance=PROPOSAL_MARGIN * tolerance,
        max_steps=MAX_LANCZOS_STEPS,
        dtype=np.float32,
    )
    top = search(gram.multiply_vector, num_pairs=NUM_TOP)
    inverse = search(factor.solve_vector, num_pairs=NUM_LOW)
    if top is None or inverse is None or not (top.converged and inverse.converged):
        return None
    signs = np.random.default_rng(PROBE_SEED).choice((-1.0, 1.0), (p, NUM_PROBES))
    return Proposal(
        top=np.linalg.qr(top.vectors.astype(np.float64))[0],
        low=smooth(factor, inverse.vectors),
        probes=factor.other_half_solve(signs).astype(np.float64),
    )


def find_largest(basis: FloatArray, reading: Reading) -> tuple[float, float]:
    """The largest singular value that the span of `basis` shows, and a bound on its relative error."""
    _, values, rotation = np.linalg.svd(reading.product, full_matrices=False)
    residuals = reading.normal @ rotation.T - (basis @ rotation.T) * values**2
    lengths = np.linalg.norm(residuals, axis=0) / values[0] ** 2
    distances = 1.0 - (values / values[0]) ** 2
    error = bound_error(Closeness(distances=distances, residuals=lengths, squares=lengths**2))
    return float(values[0]), error / 2


def estimate_correction(factor: CpuFactor, probes: FloatArray, products: FloatArray) -> tuple[float, float]:
    """What the log-volume of the factor lacks, and a bound on the error of that estimate.

    ln det(A^T A) = ln det(R^T R) + ln det(I + F), F = R^-T A^T A R^-1 - I, and ln det(I + F) = tr F to first order.
    For random signs z, z^T F z = ||A y||^2 - ||R y||^2 with y = R^-1 z has the mean tr F and the variance 2 ||F||_F^2
    at most (Hutchinson 1990). F need not be small by chance alone: squares below half a unit in the last place of a
    running float32 sum are lost, always in the same direction.
    """
    rotated = factor.multiply(probes).astype(np.float64)
    samples = np.sum(products**2, axis=0) - np.sum(rotated**2, axis=0)
    variance = float(np.var(samples, ddof=1))
    return float(samples.mean()) / 2, PROBE_SAFETY * math.sqrt(variance / samples.size) / 2 + variance / 4


def bound_kappa_error(
    matrix: TallMatrix, triplets: LowestTriplets, sigma_max: float, frobenius_norm: float, tolerance: float
) -> float:
    """Bound on the relative error of kappa: the tolerance that both ends were found to meet, and rounding."""
    scale = Scale(
        num_rows=matrix.num_rows,
        num_columns=matrix.num_columns,
        frobenius_norm=frobenius_norm,
        sigma_max=sigma_max,
    )
    rounding = scale.product_error / float(triplets.values[0])
    return combine((tolerance + scale.product_error / sigma_max) / 2, tolerance / 2 + rounding)
