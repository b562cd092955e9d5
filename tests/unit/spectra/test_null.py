"""The null model against closed forms and against sampled matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest

from oblong.spectra import compute_marchenko_pastur_kappa, compute_null
from oblong.spectra.null import load_table
from tests import tolerances


@pytest.mark.parametrize("n", [512, 4096])
@pytest.mark.parametrize("x", [0.7, 1.5, 3.67, 10.0, 40.0])
def test_square_matrices_follow_edelman(n: int, x: float) -> None:
    """P(kappa / n <= x) -> exp(-2/x - 2/x^2)."""
    quantile = compute_null((n, n)).quantile(x * n)
    assert quantile == pytest.approx(math.exp(-2 / x - 2 / x**2), abs=0.015)


@pytest.mark.parametrize("shape", [(1024, 4096), (14336, 4096), (576, 1536), (128, 8192)], ids=str)
def test_rectangular_matrices_lie_at_the_edge(shape: tuple[int, int]) -> None:
    edge = compute_marchenko_pastur_kappa(shape)
    assert edge is not None
    assert compute_null(shape).median_kappa == pytest.approx(edge, rel=tolerances.NULL_MEDIAN)


def test_edge_of_a_known_shape() -> None:
    assert compute_marchenko_pastur_kappa((1024, 4096)) == pytest.approx(3.0, rel=tolerances.FLOAT64)
    assert compute_marchenko_pastur_kappa((64, 64)) is None


@pytest.mark.parametrize("shape", [(2, 2), (24, 24), (48, 50), (40, 64), (20, 300), (100, 110)], ids=str)
def test_agrees_with_sampled_matrices(shape: tuple[int, int]) -> None:
    samples = np.random.default_rng(11).standard_normal((2000, *shape))
    values = np.linalg.svd(samples, compute_uv=False)
    kappas = values[:, 0] / values[:, -1]
    null = compute_null(shape)
    assert math.log(null.median_kappa / np.median(kappas)) == pytest.approx(0.0, abs=0.1)
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):
        quantile = null.quantile(float(np.quantile(kappas, level)))
        assert quantile == pytest.approx(level, abs=tolerances.NULL_QUANTILE)


@pytest.mark.parametrize("shape", [(64, 64), (576, 192), (3, 70000), (4096, 4100)], ids=str)
def test_quantile_is_a_distribution_function(shape: tuple[int, int]) -> None:
    null = compute_null(shape)
    grid = np.geomspace(1.0, 1e7, 200)
    quantiles = [null.quantile(float(kappa)) for kappa in grid]
    assert quantiles == sorted(q for q in quantiles if q is not None)
    assert null.quantile(null.median_kappa) == pytest.approx(0.5, abs=tolerances.FLOAT64)
    assert (quantiles[0], quantiles[-1]) == (0.001, 0.999)


def test_transposition_does_not_matter() -> None:
    assert compute_null((30, 90)).median_kappa == compute_null((90, 30)).median_kappa


def test_median_falls_as_the_shape_gets_longer() -> None:
    medians = [compute_null((300, q)).median_kappa for q in (300, 303, 330, 400, 700, 2000, 9000)]
    assert medians == sorted(medians, reverse=True)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1)], ids=str)
def test_vectors_have_kappa_one(shape: tuple[int, int]) -> None:
    null = compute_null(shape)
    assert null.median_kappa == 1.0
    assert null.quantile(1.0) is None


def test_table_is_whole() -> None:
    table = load_table()
    assert table.quantiles.shape == (table.short_sides.size, table.differences.size, table.levels.size)
    assert np.all(np.diff(table.quantiles, axis=2) > 0)
