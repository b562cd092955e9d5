"""Measures against hand-derived values and independent formulas."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from oblong.records import Measures
from oblong.spectra import Spectrum, compute_measures, compute_spectrum
from tests import tolerances
from tests.matrix_oracles import make_prescribed

LN_2_PI_E = math.log(2 * math.pi * math.e)


def measure_diagonal() -> Spectrum:
    return compute_spectrum(np.diag([4.0, 2.0, 1.0]))


def test_hand_derived_diagonal() -> None:
    """W = diag(4, 2, 1), v = 1/4, t = 1/4."""
    measures = compute_measures(measure_diagonal(), input_variance=0.25, noise_variance=0.25)
    assert measures.rank == 3
    assert measures.kappa == pytest.approx(4.0, rel=tolerances.FLOAT64)
    assert measures.log_volume == pytest.approx(math.log(8), rel=tolerances.FLOAT64)
    assert measures.frobenius_norm == pytest.approx(math.sqrt(21), rel=tolerances.FLOAT64)
    # h(Y) = 3/2 ln(2 pi e / 4) + ln 8 = 3/2 ln(2 pi e) - 3 ln 2 + 3 ln 2
    assert measures.entropy == pytest.approx(1.5 * LN_2_PI_E, rel=tolerances.FLOAT64)
    # at kappa 1: s^2 = 21 / 3 = 7 each
    assert measures.max_entropy == pytest.approx(1.5 * (LN_2_PI_E + math.log(7 / 4)), rel=tolerances.FLOAT64)
    assert measures.entropy_gap == pytest.approx(1.5 * math.log(7) - math.log(8), rel=tolerances.FLOAT64)
    # v / t = 1: 1/2 (ln 17 + ln 5 + ln 2)
    assert measures.mutual_information == pytest.approx(0.5 * math.log(170), rel=tolerances.FLOAT64)
    assert measures.stable_rank == pytest.approx(21 / 16, rel=tolerances.FLOAT64)
    assert measures.participation_ratio == pytest.approx(21**2 / (256 + 16 + 1), rel=tolerances.FLOAT64)
    # p = 4/7, 2/7, 1/7: entropy ln 7 - (4 ln 4 + 2 ln 2) / 7
    assert measures.effective_rank == pytest.approx(7 / 2 ** (10 / 7), rel=tolerances.FLOAT64)
    assert measures.sigma_ratio_95 == pytest.approx(4.0, rel=tolerances.FLOAT64)


def test_entropies_agree_with_determinants() -> None:
    """A path without singular values: ln det(v W W^T) and ln det(I + v/t W W^T)."""
    matrix = np.random.default_rng(1).standard_normal((40, 90)) * 0.1
    measures = compute_measures(compute_spectrum(matrix, full=True), input_variance=2.0, noise_variance=0.5)
    gram = matrix @ matrix.T
    entropy = 20 * LN_2_PI_E + np.linalg.slogdet(2.0 * gram)[1] / 2
    information = np.linalg.slogdet(np.eye(40) + 4.0 * gram)[1] / 2
    assert measures.entropy == pytest.approx(entropy, rel=tolerances.FLOAT64)
    assert measures.mutual_information == pytest.approx(information, rel=tolerances.FLOAT64)


def test_sigma_ratio_ignores_the_last_five_per_cent() -> None:
    values = np.concatenate([np.full(95, 10.0), np.full(5, 0.001)])
    measures = compute_measures(compute_spectrum(make_prescribed(100, 100, values), full=True))
    assert measures.kappa == pytest.approx(1e4, rel=tolerances.KAPPA_AGAINST_SVD)
    assert measures.sigma_ratio_95 == pytest.approx(1.0, rel=tolerances.FULL_SPECTRUM)


def test_extremes_leave_out_what_needs_the_full_spectrum() -> None:
    measures = compute_measures(compute_spectrum(np.random.default_rng(2).standard_normal((90, 60))))
    assert (measures.mutual_information, measures.effective_rank, measures.sigma_ratio_95) == (None, None, None)


def test_rank_deficient_matrix_is_measured_on_its_image() -> None:
    spectrum = compute_spectrum(np.diag([4.0, 2.0, 0.0]))
    measures = compute_measures(spectrum, noise_floor=0.5)
    assert (measures.rank, measures.kappa_full) == (2, None)
    assert measures.entropy == pytest.approx(LN_2_PI_E + math.log(8), rel=tolerances.FLOAT64)
    assert measures.kappa_high is None
    assert measures.resolved


def test_noise_interval() -> None:
    measures = compute_measures(measure_diagonal(), noise_floor=0.5)
    assert measures.resolved
    assert (measures.kappa_low, measures.kappa_high) == pytest.approx((3.5 / 1.5, 4.5 / 0.5), rel=tolerances.FLOAT64)
    unresolved = compute_measures(measure_diagonal(), noise_floor=1.5)
    assert not unresolved.resolved
    assert (unresolved.kappa_low, unresolved.kappa_high) == (1.0, None)


def test_excess_is_relative_to_the_null() -> None:
    measures = compute_measures(compute_spectrum(np.random.default_rng(3).standard_normal((50, 200))))
    assert measures.kappa_excess == pytest.approx(math.log(measures.kappa / measures.null_kappa))
    assert abs(measures.kappa_excess) < 0.2


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_refuses_a_spectrum_without_numbers(value: float) -> None:
    spectrum = compute_spectrum(np.full((3, 3), value))
    with pytest.raises(ValueError, match="has no measures"):
        compute_measures(spectrum)


@pytest.mark.parametrize("variances", [(0.0, 1.0), (1.0, -1.0)])
def test_refuses_a_variance_that_is_not_positive(variances: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        compute_measures(measure_diagonal(), input_variance=variances[0], noise_variance=variances[1])


def test_fields_are_those_of_the_record() -> None:
    measures = compute_measures(measure_diagonal())
    assert [field.name for field in dataclasses.fields(measures)] == list(Measures.model_fields)
    assert Measures.model_validate(measures, from_attributes=True).kappa == measures.kappa
