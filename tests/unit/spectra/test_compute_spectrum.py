"""The spectrum of one matrix against exact and independent ones."""

from __future__ import annotations

import math

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
import scipy.linalg

from oblong.spectra import Method, Outcome, Spectrum, compute_spectrum
from oblong.spectra import tall as tall_module
from tests import tolerances
from tests.matrix_oracles import (
    PROFILES,
    compute_exact_singular_values,
    make_exact,
    make_prescribed,
)

EPSILON = float(np.finfo(np.float64).eps)


def gaussian(m: int, n: int, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.random.default_rng(seed).standard_normal((m, n))


def require(value: float | None) -> float:
    assert value is not None
    return value


@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (256, 256)], ids=str)
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kappa", [3.0, 1e3, 3e4, 9e5, 1e7, 1e10, 1e12])
def test_agrees_with_an_exact_spectrum(shape: tuple[int, int], profile: str, kappa: float) -> None:
    scale = 2.0 ** max(0, math.floor(math.log2(2**42 / kappa)))  # a fine grid of integers, small enough to add up
    wanted = PROFILES[profile](shape[1], kappa) * scale
    matrix, exact = make_exact(*shape, wanted)
    spectrum = compute_spectrum(matrix)
    true_kappa, true_log_volume = exact[0] / exact[-1], float(np.log(exact).sum())
    error = abs(require(spectrum.kappa) / true_kappa - 1)
    assert spectrum.outcome is Outcome.OK
    assert error <= require(spectrum.kappa_error)
    if true_kappa < 1e6:
        assert error <= tolerances.KAPPA_BELOW_1E6
        allowed = tolerances.LOG_VOLUME * max(1.0, abs(true_log_volume))
        assert abs(require(spectrum.log_volume) - true_log_volume) <= allowed
    assert require(spectrum.frobenius_norm) == pytest.approx(math.hypot(*exact), rel=tolerances.FLOAT64)
    assert require(spectrum.sigma_max) == pytest.approx(exact[0], rel=tolerances.FLOAT64)


@pytest.mark.parametrize("kappa", [1e2, 1e5, 1e8, 1e10])
@pytest.mark.parametrize("shape", [(40, 36), (36, 40), (20, 20)], ids=str)
def test_agrees_with_fifty_digits(kappa: float, shape: tuple[int, int]) -> None:
    matrix = make_prescribed(*shape, np.geomspace(kappa, 1, min(shape)))
    exact = compute_exact_singular_values(matrix)
    spectrum = compute_spectrum(matrix)
    with mpmath.workdps(50):
        error = float(abs(spectrum.kappa * exact[-1] / exact[0] - 1))
        log_volume = float(sum(mpmath.log(value) for value in exact))
    assert error <= require(spectrum.kappa_error)
    assert abs(require(spectrum.log_volume) - log_volume) <= EPSILON * kappa * sum(shape) + tolerances.LOG_VOLUME


def test_clusters_do_not_exceed_the_bound() -> None:
    """Unresolved clusters at both ends: the residual alone would claim too much (design note 002)."""
    rng = np.random.default_rng(3)
    for trial in range(150):
        size, width = int(rng.integers(2, 6)), 10 ** rng.uniform(-10, -2)
        values = np.geomspace(10 ** rng.uniform(0.3, 3.5), 1, 64)
        values[:size] = values[0] * (1 - width * rng.random(size))
        values[-size:] = 1 + width * rng.random(size)
        matrix, exact = make_exact(64, 64, values * 2**32, seed=trial)
        spectrum = compute_spectrum(matrix)
        assert abs(require(spectrum.kappa) * exact[-1] / exact[0] - 1) <= require(spectrum.kappa_error)


@pytest.mark.parametrize(
    "shape", [(200, 200), (100, 300), (300, 100), (33, 33), (5, 9), (1, 7), (7, 1), (1, 1)], ids=str
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_agrees_with_lapack_for_every_dtype(shape: tuple[int, int], dtype: type[np.floating]) -> None:
    matrix = gaussian(*shape).astype(dtype)
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    spectrum = compute_spectrum(matrix)
    assert require(spectrum.kappa) == pytest.approx(values[0] / values[-1], rel=tolerances.KAPPA_AGAINST_SVD)
    assert require(spectrum.log_volume) == pytest.approx(
        np.log(values).sum(), rel=tolerances.LOG_VOLUME, abs=tolerances.LOG_VOLUME
    )
    ratio = (values**2).sum() ** 2 / (values**4).sum()
    assert require(spectrum.participation_ratio) == pytest.approx(ratio, rel=tolerances.FLOAT64)
    assert spectrum.rank == min(shape)
    assert spectrum.kappa_full == spectrum.kappa


def test_fast_route_is_taken_where_it_can_be_trusted() -> None:
    assert compute_spectrum(gaussian(200, 100)).method is Method.GRAM
    assert compute_spectrum(make_prescribed(100, 100, PROFILES["quadratic"](100, 3e5))).method is Method.GRAM
    assert compute_spectrum(make_prescribed(100, 100, np.geomspace(1e9, 1, 100))).method is Method.SVD
    assert compute_spectrum(gaussian(10, 10)).method is Method.SVD


@pytest.mark.parametrize("kappa", [30.0, 2e5, 1e9])
def test_full_spectrum(kappa: float) -> None:
    matrix, exact = make_exact(128, 64, PROFILES["geometric"](64, kappa) * 1024)
    extremes, full = compute_spectrum(matrix), compute_spectrum(matrix, full=True)
    assert full.singular_values is not None
    np.testing.assert_allclose(full.singular_values, exact, rtol=tolerances.FULL_SPECTRUM)
    assert full.kappa == full.singular_values[0] / full.singular_values[-1]
    assert require(full.kappa) == pytest.approx(require(extremes.kappa), rel=require(full.kappa_error))


def test_orthogonal_matrix_has_kappa_one() -> None:
    matrix, exact = make_exact(256, 64, np.full(64, 1024.0))
    spectrum = compute_spectrum(matrix)
    assert require(spectrum.kappa) == pytest.approx(1.0, rel=tolerances.FLOAT64)
    assert require(spectrum.sigma_min) == pytest.approx(exact[0], rel=tolerances.FLOAT64)


@pytest.mark.parametrize("shape", [(90, 60), (60, 90), (64, 64), (8, 8)], ids=str)
@pytest.mark.parametrize("rank", [1, 5])
def test_rank_deficient_matrix_keeps_its_nonzero_values(shape: tuple[int, int], rank: int) -> None:
    values = np.geomspace(50.0, 2.0, rank) if rank > 1 else np.array([3.0])
    spectrum = compute_spectrum(make_prescribed(*shape, values))
    assert spectrum.outcome is Outcome.RANK_DEFICIENT
    assert spectrum.rank == rank
    assert require(spectrum.kappa) == pytest.approx(values[0] / values[-1], rel=tolerances.KAPPA_AGAINST_SVD)
    assert spectrum.kappa_full is None
    assert require(spectrum.log_volume) == pytest.approx(np.log(values).sum(), rel=tolerances.LOG_VOLUME)


def test_dead_row_is_a_zero_singular_value() -> None:
    matrix = gaussian(50, 80)
    matrix[7] = 0.0
    spectrum = compute_spectrum(matrix)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert (spectrum.outcome, spectrum.rank) == (Outcome.RANK_DEFICIENT, 49)
    assert require(spectrum.kappa) == pytest.approx(values[0] / values[48], rel=tolerances.KAPPA_AGAINST_SVD)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite(value: float) -> None:
    matrix = gaussian(60, 40)
    matrix[3, 4] = value
    spectrum = compute_spectrum(matrix)
    assert spectrum.outcome is Outcome.NON_FINITE
    assert not spectrum.is_measured
    assert spectrum.kappa is None


def test_zero() -> None:
    spectrum = compute_spectrum(np.zeros((60, 40), dtype=np.float32))
    assert spectrum.outcome is Outcome.ZERO
    assert spectrum.rank == 0


def bits(spectrum: Spectrum) -> tuple[float | None, ...]:
    return spectrum.kappa, spectrum.kappa_error, spectrum.participation_ratio


@pytest.mark.parametrize("exponent", [-1000, -100, -3, 1, 99, 900])
@pytest.mark.parametrize("shape", [(80, 50), (20, 20)], ids=str)
def test_powers_of_two_change_no_bit(exponent: int, shape: tuple[int, int]) -> None:
    matrix = gaussian(*shape)
    base, scaled = compute_spectrum(matrix), compute_spectrum(np.ldexp(matrix, exponent))
    assert bits(scaled) == bits(base)
    assert require(scaled.sigma_min) == math.ldexp(require(base.sigma_min), exponent)
    shift = min(shape) * exponent * math.log(2)
    assert require(scaled.log_volume) == pytest.approx(require(base.log_volume) + shift, rel=tolerances.FLOAT64)


def test_subnormal_numbers_are_measured() -> None:
    matrix = np.ldexp(np.rint(gaussian(50, 40) * 1000), -1074)
    spectrum = compute_spectrum(matrix)
    reference = compute_spectrum(np.ldexp(matrix, 1000))
    assert require(spectrum.kappa) == pytest.approx(require(reference.kappa), rel=tolerances.FLOAT64)


def cut_into_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make panels of a few rows, square ones for the Gram matrix."""
    monkeypatch.setattr(tall_module, "GRAM_ELEMENTS", 1)
    monkeypatch.setattr(tall_module, "PRODUCT_ELEMENTS", 200)


@pytest.mark.parametrize("shape", [(500, 40), (40, 500), (70, 70)], ids=str)
def test_panels_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    matrix = gaussian(*shape)
    whole = compute_spectrum(matrix, full=True)
    cut_into_panels(monkeypatch)
    panels = compute_spectrum(matrix, full=True)
    assert require(panels.kappa) == pytest.approx(require(whole.kappa), rel=tolerances.FLOAT64)
    assert whole.singular_values is not None
    assert panels.singular_values is not None
    np.testing.assert_allclose(panels.singular_values, whole.singular_values, rtol=tolerances.KAPPA_AGAINST_SVD)


def test_ill_conditioned_panels_are_refined(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, exact = make_exact(512, 64, PROFILES["one small"](64, 2e5) * 1024)
    cut_into_panels(monkeypatch)
    spectrum = compute_spectrum(matrix)
    assert spectrum.method is Method.GRAM
    assert require(spectrum.kappa) == pytest.approx(exact[0] / exact[-1], rel=tolerances.KAPPA_REFINED)


@pytest.mark.parametrize("view", ["transposed", "reversed", "strided", "fortran"])
def test_memory_layout_does_not_matter(view: str) -> None:
    matrix = gaussian(120, 80)
    views = {
        "transposed": matrix.T,
        "reversed": matrix[::-1, ::-1],
        "strided": np.repeat(np.repeat(matrix, 2, axis=0), 3, axis=1)[::2, ::3],
        "fortran": np.asfortranarray(matrix),
    }
    before = views[view].copy()
    spectrum = compute_spectrum(views[view])
    assert require(spectrum.kappa) == pytest.approx(require(compute_spectrum(matrix).kappa), rel=tolerances.FLOAT64)
    np.testing.assert_array_equal(views[view], before)


def test_is_deterministic() -> None:
    matrix = gaussian(150, 100)
    assert bits(compute_spectrum(matrix)) == bits(compute_spectrum(matrix.copy()))


def test_looser_tolerance_is_reported() -> None:
    matrix = gaussian(300, 200)
    loose = compute_spectrum(matrix, tolerance=1e-3)
    assert 1e-3 <= require(loose.kappa_error) < 2e-3
    values = np.linalg.svd(matrix, compute_uv=False)
    assert abs(require(loose.kappa) * values[-1] / values[0] - 1) <= require(loose.kappa_error)


@pytest.mark.parametrize(
    "matrix",
    [np.ones(3), np.ones((2, 2, 2)), np.ones((0, 4)), np.ones((3, 3), dtype=np.int8)],
    ids=["vector", "cube", "empty", "integers"],
)
def test_refuses_what_is_no_matrix_of_floats(matrix: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    with pytest.raises(ValueError, match="non-empty matrix of floats"):
        compute_spectrum(matrix)


def test_svd_that_fails_is_tried_another_way_and_then_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    real, failing = scipy.linalg.svd, {"gesdd"}

    def svd(matrix: object, **options: object) -> object:
        if options["lapack_driver"] in failing:
            raise np.linalg.LinAlgError("did not converge")
        return real(matrix, **options)

    monkeypatch.setattr(scipy.linalg, "svd", svd)
    matrix = gaussian(10, 8)
    assert compute_spectrum(matrix).outcome is Outcome.OK
    failing.add("gesvd")
    spectrum = compute_spectrum(matrix)
    assert spectrum.outcome is Outcome.NOT_CONVERGED
    assert spectrum.kappa is None
