"""The stated error bound of kappa on a hundred generated matrices, and the certified values that it is held against."""

from __future__ import annotations

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest

from benchmarks import scan_trust
from benchmarks.certified_svd import HAS_EXTENDED, compute_truth
from tests.matrix_oracles import compute_exact_singular_values, make_exact, make_prescribed

pytestmark = pytest.mark.skipif(not HAS_EXTENDED, reason="this machine has no floating-point type beyond float64")


def test_the_bound_holds_for_generated_matrices() -> None:
    rows = scan_trust.run(100, seed=1)
    assert [row for row in rows if row.breaks_promise] == []
    summary = scan_trust.summarise(rows)
    assert summary["large_well_conditioned"] >= 15
    assert summary["rank_deficient"] >= 5
    assert {row.method for row in rows} >= {"gram", "svd"}
    assert {row.storage for row in rows} == {"float64", "float32", "bfloat16", "float16"}


def to_mpmath(value: np.longdouble) -> mpmath.mpf:
    """All 64 bits: the float64 part and what is left."""
    return mpmath.mpf(float(value)) + mpmath.mpf(float(value - np.longdouble(float(value))))


@pytest.mark.parametrize("kappa", [1.0, 1e3, 1e8, 1e12])
@pytest.mark.parametrize("shape", [(12, 12), (25, 17)], ids=str)
def test_the_truth_agrees_with_fifty_digits(shape: tuple[int, int], kappa: float) -> None:
    matrix = make_prescribed(*shape, np.geomspace(1.0, 1.0 / kappa, min(shape)), seed=5)
    exact = compute_exact_singular_values(matrix)
    truth = compute_truth(matrix)
    with mpmath.workdps(50):
        kappa_exact = exact[0] / exact[-1]
        error = abs(float(to_mpmath(truth.kappa) / kappa_exact - 1))
    assert error <= truth.kappa_error
    assert truth.kappa_error <= 1e-15 * max(shape) + 1e-17 * kappa


@pytest.mark.parametrize("kappa", [3, 1e5, 1e9])
def test_the_truth_agrees_with_constructed_matrices(kappa: float) -> None:
    matrix, values = make_exact(128, 64, np.geomspace(kappa, 1, 64))
    truth = compute_truth(matrix)
    assert abs(float(truth.kappa) / (values[0] / values[-1]) - 1) <= truth.kappa_error + 1e-15


def test_a_broken_bound_is_seen() -> None:
    """The check would fail if kappa were wrong by more than was stated."""
    (row,) = scan_trust.run(1, seed=2)
    fields = {name: getattr(row, name) for name in scan_trust.Row.__slots__}
    assert not row.breaks_promise
    for change in (
        {"error": 2 * row.bound},
        {"truth_error": row.bound},
        {"rank_is_right": False},
        {"change_by_power_of_two": 1e-16},
        {"change_by_factor": 1.0},
    ):
        assert scan_trust.Row(**{**fields, **change}).breaks_promise
