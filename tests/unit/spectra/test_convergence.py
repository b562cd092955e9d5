"""What is claimed from distances and residuals alone."""

from __future__ import annotations

import numpy as np
import pytest

from oblong.spectra.convergence import CLUSTER_SAFETY, GAP_SAFETY, SEPARATION, Closeness, bound_error


def bound(distances: list[float], residuals: list[float]) -> float:
    lengths = np.array(residuals)
    return bound_error(Closeness(distances=np.array(distances), residuals=lengths, squares=lengths**2))


def test_alone_a_residual_counts_a_thousand_times() -> None:
    assert bound([0.0], [1e-9]) == CLUSTER_SAFETY * 1e-9


def test_a_separate_value_has_a_quadratic_error() -> None:
    assert bound([0.0, 0.5], [1e-6, 0.0]) == pytest.approx(GAP_SAFETY * 1e-12 / 0.5)


def test_an_uncertain_neighbour_is_taken_to_be_nearer() -> None:
    assert bound([0.0, 0.5], [1e-6, 1e-3]) == pytest.approx(GAP_SAFETY * 1e-12 / (0.5 - GAP_SAFETY * 1e-3))


def test_a_resolved_pair_may_share_the_gap_to_the_third() -> None:
    residual = 1e-9
    distance = 2 * SEPARATION * residual
    assert bound([0.0, distance, 0.5], [residual] * 3) == pytest.approx(GAP_SAFETY * 2 * residual**2 / 0.5)


@pytest.mark.parametrize("distance", [0.0, 1e-8, 0.9 * SEPARATION * 1e-9])
def test_a_pair_that_is_not_resolved_may_hide_a_third(distance: float) -> None:
    assert bound([0.0, distance, 0.5], [1e-9, 1e-9, 1e-9]) == CLUSTER_SAFETY * 1e-9


def test_an_invariant_subspace_is_exact() -> None:
    assert bound([0.0, 0.0], [0.0, 0.0]) == 0.0
