"""Matrices at the ends of the range of float64: what cannot be held goes another way, and never raises."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from oblong.spectra import Method, Outcome, compute_spectrum
from tests import tolerances


def gaussian(m: int, n: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal((m, n))


@pytest.mark.parametrize("exponent", [-80, -155, -158, -160, -170, -300])
def test_inverse_beyond_float64_is_left_to_the_svd(exponent: int) -> None:
    matrix = gaussian(80, 50)
    matrix[:, 3] *= 10.0**exponent
    spectrum = compute_spectrum(matrix)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert (spectrum.outcome, spectrum.method, spectrum.rank) == (Outcome.RANK_DEFICIENT, Method.SVD, 49)
    assert spectrum.kappa == pytest.approx(values[0] / values[48], rel=tolerances.KAPPA_AGAINST_SVD)


@pytest.mark.parametrize("shape", [(80, 50), (20, 20)], ids=str)
@pytest.mark.parametrize("full", [False, True])
def test_lengths_beyond_float64_are_an_outcome(shape: tuple[int, int], full: bool) -> None:
    """The elements are finite; their Frobenius norm is the first length that is not."""
    matrix = gaussian(*shape)
    matrix *= 1e308 / np.abs(matrix).max()
    spectrum = compute_spectrum(matrix, full=full)
    assert spectrum.outcome is Outcome.NOT_CONVERGED
    assert not spectrum.is_measured
    assert compute_spectrum(np.ldexp(matrix, -8), full=full).outcome is Outcome.OK


def test_largest_length_that_float64_holds() -> None:
    matrix = np.zeros((40, 40))
    np.fill_diagonal(matrix, 2.0**900)
    matrix[0, 0] = np.finfo(np.float64).max
    spectrum = compute_spectrum(matrix)
    assert spectrum.frobenius_norm == matrix[0, 0]
