from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblong.errors import DataError
from oblong.evaluation.fronts import compute_hypervolume, find_front, interpolate_at_gain
from oblong.records import ReferencePoint

CORNER = ReferencePoint(name="corner", gain=0.0, forgetting=1.0)
POINTS = st.lists(st.tuples(st.floats(-0.5, 1), st.floats(-0.5, 1.5)), max_size=8)


def test_the_front_leaves_out_what_is_beaten() -> None:
    # (0.2, 0.3) learns less and forgets more than (0.4, 0.2); (0.5, 0.5) is beaten by (0.6, 0.5) at equal forgetting.
    points = [(0.4, 0.2), (0.2, 0.3), (0.6, 0.5), (0.5, 0.5), (0.1, 0.0), (0.4, 0.2)]
    assert find_front(points) == ((0.1, 0.0), (0.4, 0.2), (0.6, 0.5))
    assert find_front([]) == ()


def test_the_hypervolume_by_hand() -> None:
    # Steps of the front: 0.1 x 1.0 + 0.3 x 0.8 + 0.2 x 0.5 = 0.44.
    points = [(0.4, 0.2), (0.2, 0.3), (0.6, 0.5), (0.1, 0.0)]
    assert compute_hypervolume(points, CORNER) == pytest.approx(0.44)
    # From the corner (0.1, 0.4): only (0.4, 0.2) is better in both with room, 0.3 x 0.2; (0.2, 0.3) adds nothing.
    assert compute_hypervolume(points, ReferencePoint(name="c", gain=0.1, forgetting=0.4)) == pytest.approx(0.06)
    assert compute_hypervolume([(0.5, 1.0), (0.0, 0.1), (-0.2, -0.2)], CORNER) == 0.0
    # Text that improves counts beyond the base's own line: 0.5 x 1.2.
    assert compute_hypervolume([(0.5, -0.2)], CORNER) == pytest.approx(0.6)


@given(POINTS)
def test_the_hypervolume_is_the_share_of_a_grid_that_is_dominated(points: list[tuple[float, float]]) -> None:
    # Cells of the square [0, 1] x [-0.5, 1], by their centres: an independent, slow count.
    gains, forgettings = np.meshgrid((np.arange(200) + 0.5) / 200, -0.5 + (np.arange(300) + 0.5) / 200)
    dominated = np.zeros_like(gains, dtype=bool)
    for gain, forgetting in points:
        dominated |= (gains <= gain) & (forgettings >= forgetting)
    # Off by at most half a cell along each step of the staircase.
    assert compute_hypervolume(points, CORNER) == pytest.approx(dominated.sum() / 200**2, abs=0.5 * 2.5 / 200)


@given(POINTS, st.tuples(st.floats(-0.5, 1), st.floats(-0.5, 1.5)))
def test_another_point_never_shrinks_the_hypervolume(
    points: list[tuple[float, float]], another: tuple[float, float]
) -> None:
    assert compute_hypervolume([*points, another], CORNER) >= compute_hypervolume(points, CORNER) - 1e-12
    assert compute_hypervolume(find_front(points), CORNER) == pytest.approx(compute_hypervolume(points, CORNER))


def test_interpolation_by_hand() -> None:
    gains = np.array([[0.1, 0.3], [0.4, 0.2], [0.1, 0.15]])
    forgettings = np.array([[0.0, 0.2], [0.1, 0.9], [0.0, 0.1]])
    # Half-way between 0.1 and 0.3; half-way from the base to 0.4; never.
    assert interpolate_at_gain(gains, forgettings, 0.2) == pytest.approx([0.1, 0.05, np.nan], nan_ok=True)
    assert interpolate_at_gain(gains, forgettings, 0.1) == pytest.approx([0.0, 0.025, 0.0])
    with pytest.raises(DataError, match="must be above 0"):
        interpolate_at_gain(gains, forgettings, 0.0)
    with pytest.raises(DataError, match="must be above 0"):
        interpolate_at_gain(gains, forgettings, float("nan"))
