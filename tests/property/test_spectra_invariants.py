"""What must hold of the spectrum of every matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oblong.spectra import Spectrum, compute_measures, compute_noise_floor, compute_spectrum
from tests import tolerances
from tests.matrix_oracles import Array, make_orthonormal

SIDES = st.integers(1, 90)
SEEDS = st.integers(0, 2**32 - 1)
SPREADS = st.floats(0.0, 3.0)


@st.composite
def matrices(draw: st.DrawFn) -> Array:
    """Gaussian matrices whose columns differ in length by up to e^6; both routes are taken."""
    rng = np.random.default_rng(draw(SEEDS))
    m, n, spread = draw(SIDES), draw(SIDES), draw(SPREADS)
    result: Array = rng.standard_normal((m, n)) * np.exp(rng.uniform(-spread, spread, n))
    return result


def same_kappa(spectrum: Spectrum, other: Spectrum) -> bool:
    """Equal within the two stated errors, so that this tests the bounds too."""
    assert spectrum.kappa is not None
    assert other.kappa is not None
    assert spectrum.kappa_error is not None
    assert other.kappa_error is not None
    allowed = 2 * (spectrum.kappa_error + other.kappa_error)
    return abs(spectrum.kappa / other.kappa - 1) <= allowed


def log_volume(spectrum: Spectrum) -> float:
    assert spectrum.log_volume is not None
    return spectrum.log_volume


@settings(max_examples=60, deadline=None)
@given(matrices(), st.floats(-30.0, 30.0), st.sampled_from([-1.0, 1.0]))
def test_scaling(matrix: Array, exponent: float, sign: float) -> None:
    c = sign * 10.0**exponent
    spectrum, scaled = compute_spectrum(matrix), compute_spectrum(c * matrix)
    assert same_kappa(spectrum, scaled)
    shift = spectrum.rank * math.log(abs(c))
    size = max(1.0, abs(log_volume(spectrum)), abs(shift))
    assert abs(log_volume(scaled) - log_volume(spectrum) - shift) <= tolerances.LOG_VOLUME * size
    gaps = [compute_measures(s).entropy_gap for s in (spectrum, scaled)]
    assert gaps[0] == pytest.approx(gaps[1], abs=tolerances.LOG_VOLUME * size)


@settings(max_examples=40, deadline=None)
@given(matrices())
def test_transposition(matrix: Array) -> None:
    spectrum, transposed = compute_spectrum(matrix), compute_spectrum(np.ascontiguousarray(matrix.T))
    assert same_kappa(spectrum, transposed)
    assert log_volume(spectrum) == pytest.approx(log_volume(transposed), rel=tolerances.LOG_VOLUME, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(matrices(), st.integers(0, 1000))
def test_rotation(matrix: Array, seed: int) -> None:
    rotation = make_orthonormal(matrix.shape[0], matrix.shape[0], seed)
    spectrum, rotated = compute_spectrum(matrix), compute_spectrum(rotation @ matrix)
    assert same_kappa(spectrum, rotated)
    assert log_volume(spectrum) == pytest.approx(log_volume(rotated), rel=tolerances.LOG_VOLUME, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(matrices(), st.sampled_from(["F32", "BF16", "Q4_0"]))
def test_order_of_the_measures(matrix: Array, storage: str) -> None:
    spectrum = compute_spectrum(matrix, full=True)
    m = compute_measures(spectrum, noise_floor=compute_noise_floor(matrix, storage))
    slack = 1 + tolerances.KAPPA_BELOW_1E6
    assert m.entropy_gap >= 0
    assert m.max_entropy >= m.entropy
    assert m.stable_rank * slack >= 1
    assert m.stable_rank <= m.participation_ratio * slack <= m.rank * slack**2
    assert m.effective_rank is not None
    assert m.sigma_ratio_95 is not None
    assert 1 <= m.effective_rank * slack <= m.rank * slack**2
    assert 1 <= m.sigma_ratio_95 * slack <= m.kappa * slack**2
    assert m.sigma_max <= m.frobenius_norm * slack
    assert m.kappa_low <= m.kappa * slack
    assert m.resolved == (m.kappa_high is not None)
    assert m.kappa_high is None or m.kappa <= m.kappa_high
    assert m.mutual_information is not None
    assert m.mutual_information > 0
