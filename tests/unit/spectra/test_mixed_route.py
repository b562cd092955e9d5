"""The route by float32: when it is taken, that it agrees with float64 within what it states, and when it gives up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from oblong.spectra import Method, Outcome, Precision, Spectrum, compute_spectrum
from oblong.spectra import mixed_route as mixed_module
from oblong.spectra.lanczos import compute_largest
from tests.matrix_oracles import PROFILES, make_prescribed

Matrix = NDArray[np.float32]


def make(shape: tuple[int, int], kappa: float, profile: str = "geometric", seed: int = 0) -> Matrix:
    return make_prescribed(*shape, PROFILES[profile](min(shape), kappa), seed).astype(np.float32)


def require(number: float | None) -> float:
    assert number is not None
    return number


def check_against_svd(matrix: Matrix, spectrum: Spectrum) -> None:
    """Within the stated errors of LAPACK's float64 values."""
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    kappa = values[0] / values[-1]
    assert abs(require(spectrum.kappa) / kappa - 1) <= require(spectrum.kappa_error)
    log_volume = float(np.log(values).sum())
    assert abs(require(spectrum.log_volume) - log_volume) <= require(spectrum.log_volume_error)
    assert require(spectrum.frobenius_norm) == pytest.approx(float(np.linalg.norm(values)), rel=1e-12)


@pytest.mark.parametrize("profile", ["geometric", "linear", "outlier"])
@pytest.mark.parametrize("shape", [(640, 330), (330, 640)], ids=str)
@pytest.mark.parametrize("kappa", [2.0, 30.0])
def test_is_taken_and_right(profile: str, shape: tuple[int, int], kappa: float) -> None:
    matrix = make(shape, kappa, profile)
    spectrum = compute_spectrum(matrix)
    assert spectrum.method is Method.MIXED
    check_against_svd(matrix, spectrum)


@pytest.mark.parametrize("profile", ["quadratic", "two levels", "one small", "one large"])
def test_ends_without_a_gap_are_right_by_whatever_route(profile: str) -> None:
    matrix = make((640, 330), 30.0, profile)
    check_against_svd(matrix, compute_spectrum(matrix))


@pytest.mark.parametrize("exponent", [-100, -41, -39, 0, 39, 41, 100])
def test_powers_of_two_change_kappa_by_rounding_only(exponent: int) -> None:
    matrix = make((640, 330), 20.0)
    base, scaled = compute_spectrum(matrix), compute_spectrum(np.ldexp(matrix, exponent).astype(np.float32))
    assert scaled.method is Method.MIXED
    assert scaled.kappa == base.kappa


@pytest.mark.parametrize("distance", [1e-2, 1e-5, 1e-8])
def test_clusters_at_both_ends_do_not_exceed_the_bound(distance: float) -> None:
    for seed in range(6):
        values = np.geomspace(20.0, 1.0, 330)
        values[1:3] = values[0] * (1 - distance * np.array([1.0, 3.0]))
        values[-3:-1] = values[-1] * (1 + distance * np.array([3.0, 1.0]))
        matrix = make_prescribed(640, 330, np.sort(values)[::-1], seed).astype(np.float32)
        check_against_svd(matrix, compute_spectrum(matrix))


def test_float64_on_request() -> None:
    matrix = make((640, 330), 30.0)
    spectrum = compute_spectrum(matrix, precision=Precision.FLOAT64)
    assert spectrum.method is Method.GRAM
    assert spectrum.kappa == pytest.approx(compute_spectrum(matrix).kappa, rel=1e-7)


@pytest.mark.parametrize(
    "matrix",
    [
        make((640, 330), 30.0).astype(np.float64) * (1 + 1e-9),
        make((400, 200), 30.0),
        make((330, 330), 30.0),
        make((640, 330), 1e5),
    ],
    ids=["not float32", "small", "square", "ill-conditioned"],
)
def test_is_left_to_float64(matrix: NDArray[np.floating[Any]]) -> None:
    spectrum = compute_spectrum(matrix)
    assert spectrum.outcome is Outcome.OK
    assert spectrum.method in (Method.GRAM, Method.SVD)


def test_all_singular_values_come_from_float64() -> None:
    assert compute_spectrum(make((640, 330), 30.0), full=True).method is Method.GRAM


def test_bad_directions_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever float32 proposes, the residuals tell."""

    def spoil(*arguments: object, **options: object) -> object:
        pairs = compute_largest(*arguments, **options)  # type: ignore[arg-type]
        assert pairs is not None
        pairs.vectors[0] += 0.5
        return pairs

    monkeypatch.setattr(mixed_module, "compute_largest", spoil)
    matrix = make((640, 330), 30.0)
    spectrum = compute_spectrum(matrix)
    assert spectrum.method is Method.GRAM
    check_against_svd(matrix, spectrum)


def test_a_factor_that_is_off_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log-volume that the probes cannot vouch for goes to float64."""
    monkeypatch.setattr(mixed_module, "LOG_VOLUME_TOLERANCE", 0.0)
    assert compute_spectrum(make((640, 330), 30.0)).method is Method.GRAM
