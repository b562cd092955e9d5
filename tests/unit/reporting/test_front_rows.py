from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from oblong.evaluation.fronts import find_front
from oblong.records import ArmRetention, LearningForgettingCurve, Retention
from oblong.reporting.front_rows import (
    count_outside,
    curve_rows,
    find_frame,
    front_rows,
    label_rows,
    spread,
)
from tests.report_builders import CONTROL
from tests.sweep_builders import DEMO_ARMS, GAIN, RATES, STEPS, SweptArm, make_many_arms, make_sweep
from tests.tolerances import REPORT_ARITHMETIC

Points = Sequence[tuple[float, float]]


def make_retention(arms: dict[str, list[Points]], *, gain: float | None = None) -> Retention:
    """One retention text from the points of each arm's curves."""
    whole = make_sweep({CONTROL: SweptArm(cost=0.2)}, gain=None).retention[1]
    made = tuple(
        ArmRetention(
            arm=arm,
            curves=tuple(_make_curve(index, points) for index, points in enumerate(curves)),
            at_gain=None,
            against_control=None,
            front=find_front(itertools.chain.from_iterable(curves)),
            hypervolume=0.0,
        )
        for arm, curves in arms.items()
    )
    return whole.model_copy(update={"arms": made, "gain": gain})


def _make_curve(index: int, points: Points) -> LearningForgettingCurve:
    return LearningForgettingCurve(
        setting=f"{index + 1}e-04",
        learning_rate=(index + 1) * 1e-4,
        steps=tuple(10 * (place + 1) for place in range(len(points))),
        gains=tuple(gain for gain, _ in points),
        forgettings=tuple(forgetting for _, forgetting in points),
    )


def is_beaten(point: tuple[float, float], others: Points) -> bool:
    """The definition, point by point: some other has at least the gain with at most the forgetting."""
    return any(other != point and other[0] >= point[0] and other[1] <= point[1] for other in others)


class TestCurves:
    def test_every_state_is_a_row_and_every_curve_starts_at_the_base(self) -> None:
        retention = make_sweep().retention[0]
        rows = curve_rows(retention)
        assert len(rows) == len(DEMO_ARMS) * len(RATES) * (len(STEPS) + 1)
        starts = [row for row in rows if row["step"] == 0]
        assert len(starts) == len(DEMO_ARMS) * len(RATES)
        assert all((row["gain"], row["forgetting"]) == (0.0, 0.0) for row in starts)

    def test_a_row_says_what_the_record_says(self) -> None:
        retention = make_retention({"A": [[(0.2, 0.1)], [(0.3, 0.4)]]})
        assert curve_rows(retention)[3] == {
            "arm": "A",
            "rate": "2e-04",
            "step": 10,
            "gain": 0.3,
            "forgetting": 0.4,
        }


class TestFronts:
    def test_a_front_is_what_nothing_beats(self) -> None:
        generator = np.random.default_rng(1)
        points = [(float(gain), float(kept)) for gain, kept in generator.normal(size=(60, 2))]
        rows = front_rows(make_retention({"A": [points[:30], points[30:]]}))
        candidates = [*points, (0.0, 0.0)]
        expected = sorted(point for point in candidates if not is_beaten(point, candidates) and point[0] >= 0)
        assert [(row["gain"], row["forgetting"]) for row in rows] == expected

    def test_it_starts_at_the_base_unless_a_state_beats_that(self) -> None:
        forgets = make_retention({"A": [[(0.2, 0.1)]]})
        keeps = make_retention({"A": [[(0.2, -0.1)]]})
        assert [row["gain"] for row in front_rows(forgets)] == [0.0, 0.2]
        assert [row["gain"] for row in front_rows(keeps)] == [0.2]

    def test_an_arm_that_only_lost_stays_at_the_base(self) -> None:
        rows = front_rows(make_retention({"A": [[(-0.2, 0.1)]]}))
        assert rows == [{"arm": "A", "gain": 0.0, "forgetting": 0.0}]


class TestFrame:
    def test_a_hopeless_rate_does_not_crush_the_others(self) -> None:
        good, hopeless = [(0.2, 0.01), (0.4, 0.03)], [(-3.0, 5.0), (-4.0, 9.0)]
        retention = make_retention({"A": [good, hopeless]}, gain=0.3)
        frame = find_frame(retention)
        assert frame.forgetting[1] < 0.05
        assert frame.gain[0] > -0.1
        assert all(frame.holds(*point) for point in good)
        assert count_outside(retention) == len(hopeless)

    def test_every_front_is_inside_as_far_as_the_gain(self) -> None:
        for retention in make_sweep().retention:
            frame = find_frame(retention)
            upto = [row for row in front_rows(retention) if row["gain"] <= GAIN]
            assert upto
            assert all(frame.holds(row["gain"], row["forgetting"]) for row in upto)

    def test_intervals_at_the_gain_are_inside(self) -> None:
        retention = make_sweep().retention[0]
        frame = find_frame(retention)
        found = [arm.at_gain.forgetting for arm in retention.arms if arm.at_gain and arm.at_gain.forgetting]
        assert all(frame.holds(GAIN, interval.low) and frame.holds(GAIN, interval.high) for interval in found)

    def test_without_anything_learned_there_is_still_a_frame(self) -> None:
        frame = find_frame(make_retention({"A": [[(0.0, 0.0)]]}))
        assert frame.gain[0] < frame.gain[1]
        assert frame.forgetting[0] < frame.forgetting[1]


class TestNames:
    def test_twenty_names_keep_their_distance_inside_the_frame(self) -> None:
        retention = make_sweep(make_many_arms()).retention[0]
        rows = label_rows(retention, spacing=0.045)
        low, high = find_frame(retention).forgetting
        heights = sorted(row["label"] for row in rows)
        assert len(rows) == len(retention.arms)
        assert low <= heights[0]
        assert heights[-1] <= high
        gaps = [above - below for below, above in itertools.pairwise(heights)]
        assert min(gaps) >= 0.045 * (high - low) * (1 - REPORT_ARITHMETIC)

    def test_a_name_points_to_the_last_state_of_the_front_inside(self) -> None:
        retention = make_retention({"A": [[(0.2, 0.01), (0.4, 0.02), (0.5, 3.0)]]}, gain=0.3)
        (row,) = label_rows(retention, spacing=0.05)
        assert (row["gain"], row["forgetting"]) == (0.4, 0.02)
        assert row["label"] == row["forgetting"]

    @pytest.mark.parametrize(
        ("places", "expected"),
        [
            ([], []),
            ([1.0, 3.0], [1.0, 3.0]),
            ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]),
            ([9.5, 9.8, 9.9], [8.0, 9.0, 10.0]),
            ([0.0, 9.8, 9.9], [0.0, 9.0, 10.0]),
        ],
    )
    def test_names_are_moved_no_further_than_they_must(self, places: list[float], expected: list[float]) -> None:
        assert spread(places, 1.0, low=0.0, high=10.0) == pytest.approx(expected, rel=REPORT_ARITHMETIC)
