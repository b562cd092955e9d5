"""From a spectrum to everything that a Scan says about a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from oblong.spectra.noise import bound_unrounded_kappa
from oblong.spectra.null import compute_null
from oblong.spectra.spectrum import FloatArray, Spectrum

LN_2_PI_E = math.log(2.0 * math.pi * math.e)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixMeasures:
    """The measures of one m x n matrix of rank r; float64, entropies in nats.

    Field for field those of a Scan's `Measures`, which documents each.
    """

    rank: int
    sigma_max: float
    sigma_min: float
    frobenius_norm: float
    kappa: float
    kappa_full: float | None
    kappa_error: float
    log_volume: float
    log_volume_error: float | None
    entropy: float
    max_entropy: float
    entropy_gap: float
    mutual_information: float | None
    stable_rank: float
    participation_ratio: float
    effective_rank: float | None
    sigma_ratio_95: float | None
    null_kappa: float
    null_quantile: float | None
    kappa_excess: float
    noise_floor: float
    resolved: bool
    kappa_low: float
    kappa_high: float | None
    method: str


def compute_measures(
    spectrum: Spectrum, *, input_variance: float = 1.0, noise_variance: float = 1.0, noise_floor: float = 0.0
) -> MatrixMeasures:
    """All measures of a matrix.

    Args:
        spectrum: A measured spectrum.
        input_variance: v of the input X ~ N(0, v I).
        noise_variance: t of the output noise N(0, t I), for the mutual information.
        noise_floor: Spectral norm of the storage format's rounding error, in the unit of the matrix.

    Returns:
        The measures; those that need all singular values are None when the spectrum has only the extremes.

    Raises:
        ValueError: The spectrum holds no numbers, or a variance is not positive.

    Source: Ludwig 2025, Eq. 1, 3-8 and Theorem 1, on the r-dimensional image of W where W is not onto.
    """
    s = _require_numbers(spectrum)
    if not (input_variance > 0 and noise_variance > 0):
        raise ValueError(f"variances must be positive, not {input_variance} and {noise_variance}")
    half_rank = spectrum.rank / 2
    gap = compute_entropy_gap(spectrum.rank, s.frobenius_norm, s.log_volume)
    entropy = half_rank * (LN_2_PI_E + math.log(input_variance)) + s.log_volume
    null = compute_null(spectrum.shape)
    interval = bound_unrounded_kappa(
        s.sigma_max, s.sigma_min, noise_floor, is_singular=spectrum.rank < min(spectrum.shape)
    )
    values = spectrum.singular_values
    nonzero = None if values is None else values[: spectrum.rank]
    return MatrixMeasures(
        rank=spectrum.rank,
        sigma_max=s.sigma_max,
        sigma_min=s.sigma_min,
        frobenius_norm=s.frobenius_norm,
        kappa=s.kappa,
        kappa_full=spectrum.kappa_full,
        kappa_error=s.kappa_error,
        log_volume=s.log_volume,
        log_volume_error=spectrum.log_volume_error,
        entropy=entropy,
        max_entropy=entropy + gap,
        entropy_gap=gap,
        mutual_information=(
            None if nonzero is None else compute_mutual_information(nonzero, input_variance / noise_variance)
        ),
        stable_rank=(s.frobenius_norm / s.sigma_max) ** 2,
        participation_ratio=s.participation_ratio,
        effective_rank=None if nonzero is None else compute_effective_rank(nonzero),
        sigma_ratio_95=None if nonzero is None else compute_sigma_ratio(nonzero, 0.95),
        null_kappa=null.median_kappa,
        null_quantile=null.quantile(s.kappa),
        kappa_excess=math.log(s.kappa / null.median_kappa),
        noise_floor=noise_floor,
        resolved=s.sigma_min > noise_floor,
        kappa_low=interval[0],
        kappa_high=interval[1],
        method=str(spectrum.method),
    )


def compute_entropy_gap(rank: int, frobenius_norm: float, log_volume: float) -> float:
    """Entropy gap r (ln rms(s) - mean ln s) >= 0, nats: what a round W of the same Frobenius norm would have more.

    Zero if and only if kappa = 1; not changed by scaling W (Theorem 1).
    """
    gap = rank * (math.log(frobenius_norm) - math.log(rank) / 2) - log_volume
    return max(gap, 0.0)


def compute_mutual_information(singular_values: FloatArray, signal_to_noise: float) -> float:
    """1/2 sum ln(1 + v s_i^2 / t), nats: I(X; Y) for Y = W X + N(0, t I), X ~ N(0, v I).

    Eq. 7 made finite: without noise the mutual information of a deterministic continuous map is infinite, not h(Y).

    Args:
        singular_values: Shape (r,).
        signal_to_noise: v / t.
    """
    scaled = singular_values * math.sqrt(signal_to_noise)
    return float(np.log(np.hypot(1.0, scaled)).sum())


def compute_effective_rank(singular_values: FloatArray) -> float:
    """exp(-sum p_i ln p_i) with p_i = s_i / sum s, between 1 and r (Roy and Vetterli 2007)."""
    shares = singular_values / singular_values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def compute_sigma_ratio(singular_values: FloatArray, share: float) -> float:
    """s_1 over the singular value that this share of them reaches: kappa without the luck of the last few.

    Args:
        singular_values: Shape (r,), descending.
        share: In (0, 1].
    """
    index = math.ceil(share * singular_values.size) - 1
    return float(singular_values[0] / singular_values[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbers:
    """The numbers of a measured spectrum, none of them None."""

    sigma_max: float
    sigma_min: float
    frobenius_norm: float
    kappa: float
    kappa_error: float
    log_volume: float
    participation_ratio: float


def _require_numbers(spectrum: Spectrum) -> _Numbers:
    numbers = {name: getattr(spectrum, name) for name in _Numbers.__slots__}
    if not spectrum.is_measured:
        raise ValueError(f"a spectrum whose outcome is {spectrum.outcome!r} has no measures")
    return _Numbers(**numbers)
