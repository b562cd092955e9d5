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
from oblong.spectra.gram_route import FLOAT32_MARGIN, MAX_LANCZOS_STEPS, GramResult, Scale, bound_first
from oblong.spectra.lanczos import RitzPairs, compute_largest
from oblong.spectra.null import compute_null
from oblong.spectra.operators import Reading
from oblong.spectra.refinement import refine_lowest, smooth
from oblong.spectra.rounding import combine
from oblong.spectra.spectrum import FloatArray
from oblong.spectra.tall import TallMatrix

SMALLEST_SIDE: Final = 320
"""Below, the iterations cost more than the Gram matrix, and float32 saves nothing."""

HOPELESS_KAPPA: Final = 300.0
"""The float32 factor of a matrix with a kappa of some 1000 breaks down, or comes out too far off to be of use. Shapes
that have such a kappa by chance, the square ones, are not worth trying."""

NUM_PAIRS: Final = 4
NUM_PROBES: Final = 16
PROBE_SEED: Final = 20250626
PROBE_SAFETY: Final = 6.0
"""Standard errors that the estimate of the log-volume is allowed to be off by."""

LOG_VOLUME_TOLERANCE: Final = 1e-6
"""Error allowed to the log-volume per singular value, nats. The entropy gap that it goes into is some 0.1 nat for each
of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Directions from float32.

    Attributes:
        factor: R, the factor of G.
        top: Near the largest right singular vectors; eigenpairs of G.
        low: Near the smallest ones; eigenpairs of G^-1.
        probes: Shape (p, n), R^-1 z for random signs z.
    """

    factor: CpuFactor
    top: RitzPairs
    low: RitzPairs
    probes: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Both ends of the spectrum as float64 products show them, and bounds on their relative errors."""

    sigma_max: float
    sigma_min: float
    top_error: float
    low_error: float

    @property
    def error(self) -> float:
        """Bound on the relative error of their ratio."""
        return self.top_error + self.low_error


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
    proposal = propose(gram, tolerance=tolerance)
    if proposal is None:
        return None
    factor = proposal.factor
    extremes = np.hstack([_normalise(proposal.top), _normalise(proposal.low)])
    reading = matrix.multiply_twice(extremes, proposal.probes)
    correction, log_volume_error = estimate_correction(factor, proposal.probes, reading.also)
    if log_volume_error > LOG_VOLUME_TOLERANCE * matrix.num_columns:
        return None
    ends = check_extremes(factor, proposal, extremes, reading)
    if ends.error > tolerance:
        ends = check_groups(matrix, proposal, ends, tolerance=tolerance)
    if ends.error > tolerance:
        return None
    frobenius_norm = math.sqrt(reading.sum_of_squares)
    return GramResult(
        sigma_max=ends.sigma_max,
        sigma_min=ends.sigma_min,
        kappa_error=bound_kappa_error(matrix, ends, frobenius_norm, tolerance),
        log_volume=factor.log_volume + correction,
        log_volume_error=log_volume_error,
        frobenius_norm=frobenius_norm,
        participation_ratio=frobenius_norm**4 / gram.sum_of_squares,
        singular_values=None,
    )


def propose(gram: CpuGram, *, tolerance: float) -> Proposal | None:
    """Directions of both ends; None if an iteration does not converge, or G is not positive definite in float32."""
    search = partial(
        compute_largest,
        dimension=gram.size,
        tolerance=FLOAT32_MARGIN * tolerance,
        max_steps=MAX_LANCZOS_STEPS,
        num_pairs=NUM_PAIRS,
        dtype=np.float32,
    )
    top = search(gram.multiply_vector)
    factor = gram.factorise(overwrite=True)
    low = None if factor is None else search(factor.solve_vector)
    if factor is None or top is None or low is None or not (top.converged and low.converged):
        return None
    signs = np.random.default_rng(PROBE_SEED).choice((-1.0, 1.0), (gram.size, NUM_PROBES))
    return Proposal(factor=factor, top=top, low=low, probes=factor.other_half_solve(signs).astype(np.float64))


def _normalise(pairs: RitzPairs) -> FloatArray:
    """The first vector in float64, shape (p, 1)."""
    vector: FloatArray = pairs.vectors[:, :1].astype(np.float64)
    return vector / np.linalg.norm(vector)


def check_extremes(factor: CpuFactor, proposal: Proposal, vectors: FloatArray, reading: Reading) -> Ends:
    """Judge the first vector of each end by its own residual, and the gap to the next by what float32 found.

    Args:
        factor: R.
        proposal: Where the vectors come from.
        vectors: Shape (p, 2), of unit length: the largest, the smallest.
        reading: The products of A with them.
    """
    values = np.einsum("ij,ij->j", reading.product, reading.product)
    residuals = reading.normal - vectors * values
    top = residuals[:, 0] / values[0]
    direction = factor.solve_vector(residuals[:, 1]).astype(np.float64)
    return Ends(
        sigma_max=math.sqrt(values[0]),
        sigma_min=math.sqrt(values[1]),
        top_error=bound_first(proposal.top, float(top @ top), float(top @ top)) / 2,
        low_error=bound_first(
            proposal.low, float(direction @ direction), float(residuals[:, 1] @ direction) / float(values[1])
        )
        / 2,
    )


def check_groups(matrix: TallMatrix, proposal: Proposal, ends: Ends, *, tolerance: float) -> Ends:
    """Judge an end that did not pass by several vectors, whose next neighbours are further away.

    Args:
        matrix: A, to be read again.
        proposal: Where the vectors come from.
        ends: What `check_extremes` said.
        tolerance: What is good enough for both together.
    """
    if ends.top_error > tolerance / 2:
        sigma_max, top_error = find_largest(matrix, np.linalg.qr(proposal.top.vectors.astype(np.float64))[0])
        ends = replace(ends, sigma_max=sigma_max, top_error=top_error)
    if ends.top_error <= tolerance / 2 < ends.low_error:
        basis = smooth(proposal.factor, proposal.low.vectors)
        triplets = refine_lowest(matrix, proposal.factor, basis, tolerance=tolerance / 2)
        ends = replace(ends, sigma_min=float(triplets.values[0]), low_error=triplets.relative_error)
    return ends


def find_largest(matrix: TallMatrix, basis: FloatArray) -> tuple[float, float]:
    """The largest singular value that the span of `basis` shows, and a bound on its relative error."""
    reading = matrix.multiply_twice(basis)
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

    Args:
        factor: R.
        probes: Shape (p, n): y.
        products: Shape (q, n): A y.
    """
    rotated = factor.multiply(probes).astype(np.float64)
    samples = np.sum(products**2, axis=0) - np.sum(rotated**2, axis=0)
    variance = float(np.var(samples, ddof=1))
    return float(samples.mean()) / 2, PROBE_SAFETY * math.sqrt(variance / samples.size) / 2 + variance / 4


def bound_kappa_error(matrix: TallMatrix, ends: Ends, frobenius_norm: float, tolerance: float) -> float:
    """Bound on the relative error of kappa: the tolerance that the ends were found to meet, and rounding."""
    scale = Scale(
        num_rows=matrix.num_rows,
        num_columns=matrix.num_columns,
        frobenius_norm=frobenius_norm,
        sigma_max=ends.sigma_max,
    )
    rounding = scale.product_error / ends.sigma_min
    return combine((tolerance + scale.product_error / ends.sigma_max) / 2, tolerance / 2 + rounding)
