"""Lanczos against full eigendecompositions."""

from __future__ import annotations

import numpy as np
import pytest

from oblong.spectra.lanczos import Operator, RitzPairs, compute_largest
from tests import tolerances


def make_symmetric(
    eigenvalues: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    vectors = np.linalg.qr(np.random.default_rng(5).standard_normal((eigenvalues.size, eigenvalues.size)))[0]
    return np.asarray((vectors * eigenvalues) @ vectors.T, dtype=np.float64)


def find_largest(
    operator: Operator, dimension: int, *, max_steps: int, tolerance: float = 1e-7, num_pairs: int = 1
) -> RitzPairs:
    pairs = compute_largest(operator, dimension, tolerance=tolerance, max_steps=max_steps, num_pairs=num_pairs)
    assert pairs is not None
    return pairs


@pytest.mark.parametrize("tolerance", [1e-3, 1e-7])
def test_largest_eigenvalue_is_within_the_tolerance(tolerance: float) -> None:
    matrix = make_symmetric(np.linspace(1.0, 2.0, 300) ** 4)
    pairs = find_largest(lambda v: matrix @ v, 300, tolerance=tolerance, max_steps=200)
    assert pairs.converged
    assert pairs.values[0] == pytest.approx(16.0, rel=tolerance)


def test_pairs_are_orthonormal_and_their_residuals_true() -> None:
    matrix = make_symmetric(np.geomspace(1e6, 1.0, 120))
    pairs = find_largest(lambda v: matrix @ v, 120, tolerance=1e-7, max_steps=200, num_pairs=4)
    np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(4), atol=tolerances.FLOAT64)
    residuals = np.linalg.norm(matrix @ pairs.vectors - pairs.vectors * pairs.values, axis=0)
    np.testing.assert_allclose(residuals, pairs.residuals, atol=1e6 * tolerances.FLOAT64)
    assert np.all(np.diff(pairs.values) < 0)


def test_too_few_steps_are_admitted() -> None:
    matrix = make_symmetric(np.linspace(1.0, 2.0, 200))
    assert not find_largest(lambda v: matrix @ v, 200, tolerance=1e-7, max_steps=5).converged


def test_identity_ends_after_one_step_from_each_start() -> None:
    products = []

    def apply(vector: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        products.append(vector)
        return 3.0 * vector

    pairs = find_largest(apply, 50, tolerance=1e-7, max_steps=50, num_pairs=6)
    assert pairs.converged
    assert len(products) == 2
    assert pairs.values.shape == (2,)
    assert pairs.values[0] == pytest.approx(3.0, rel=tolerances.FLOAT64)


def test_whole_space_is_exact() -> None:
    matrix = make_symmetric(np.arange(1.0, 7.0))
    pairs = find_largest(lambda v: matrix @ v, 6, tolerance=1e-7, max_steps=100)
    assert pairs.values[0] == pytest.approx(6.0, rel=tolerances.FLOAT64)


@pytest.mark.parametrize("factor", [1.0, 1e200])
def test_overflow_is_told(factor: float) -> None:
    """Of a product, or only of the square of its length."""
    assert compute_largest(lambda v: v * 1e200 * factor, 40, tolerance=1e-7, max_steps=20) is None


def test_cluster_that_hides_from_one_start_is_seen_by_two() -> None:
    """Two eigenvalues 1e-6 apart: one start sees their mean, with a residual that looks converged."""
    matrix = make_symmetric(np.append([2.0, 2.0 - 1e-6], np.linspace(1.0, 0.1, 148)))
    pairs = find_largest(lambda v: matrix @ v, 150, max_steps=150)
    assert pairs.converged
    assert pairs.values[0] == pytest.approx(2.0, rel=1e-9)


def test_float32_basis_finds_the_same_vectors() -> None:
    matrix = make_symmetric(np.geomspace(10.0, 0.1, 200)).astype(np.float32)
    pairs = compute_largest(lambda v: matrix @ v, 200, tolerance=1e-6, max_steps=200, num_pairs=3, dtype=np.float32)
    assert pairs is not None
    assert pairs.vectors.dtype == np.float32
    exact = np.linalg.eigh(matrix.astype(np.float64))[1][:, -1]
    assert abs(exact @ pairs.vectors[:, 0]) == pytest.approx(1.0, abs=tolerances.FLOAT32)
