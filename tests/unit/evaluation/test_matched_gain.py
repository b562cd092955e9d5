"""Forgetting at a matched gain: by hand, by its own limits, and by how often its intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from oblong.errors import DataError
from oblong.evaluation.curves import Curve, Texts, list_points
from oblong.evaluation.matched_gain import compare_all_at_gain, compare_at_gain, find_common_gain, measure_at_gain
from oblong.evaluation.multiplicity import adjust_holm
from oblong.records import DocumentScore, Reach

Array = NDArray[np.float64]
TOKENS = 10
LEVEL = 3.0  # loss of the base, nats per token


def score(losses: Array) -> list[DocumentScore]:
    return [DocumentScore(nll=float(loss) * TOKENS, num_tokens=TOKENS, num_bytes=1) for loss in losses]


def make_base(num_learned: int = 6, num_kept: int = 6) -> Texts:
    return Texts(learned=[score(np.full(num_learned, LEVEL))], kept=[score(np.full(num_kept, LEVEL))])


def make_point(gains: Array | float, forgettings: Array | float, num_documents: int = 6) -> Texts:
    """A state whose documents have these gains and forgettings, `S x D` or the same everywhere."""
    num_seeds = max(len(np.atleast_2d(values)) for values in (gains, forgettings))
    gains_SD, forgettings_SE = (np.broadcast_to(values, (num_seeds, num_documents)) for values in (gains, forgettings))
    return Texts(learned=[score(LEVEL - row) for row in gains_SD], kept=[score(LEVEL + row) for row in forgettings_SE])


def make_curve(name: str, *points: tuple[float, float]) -> Curve:
    return Curve(name=name, points=[make_point(gain, forgetting) for gain, forgetting in points])


SLOW = make_curve("1e-5", (0.1, 0.00), (0.3, 0.02))
FAST = make_curve("1e-4", (0.4, 0.10), (0.6, 0.30))


def test_interpolates_and_takes_the_learning_rate_that_forgets_least() -> None:
    # At 0.2 the slow curve is half-way between (0.1, 0) and (0.3, 0.02); the fast one half-way from the base: 0.05.
    at = measure_at_gain([SLOW, FAST], make_base(), gain=0.2)
    assert at.reach is Reach.REACHED
    assert at.settings == ("1e-5",)
    assert at.forgetting is not None
    assert at.forgetting.mean == pytest.approx(0.01)
    # At 0.5 only the fast one is left: half-way between 0.10 and 0.30.
    later = measure_at_gain([SLOW, FAST], make_base(), gain=0.5)
    assert later.settings == ("1e-4",)
    assert later.forgetting is not None
    assert later.forgetting.mean == pytest.approx(0.20)


def test_a_gain_beyond_all_curves_is_not_reached_and_not_extrapolated() -> None:
    at = measure_at_gain([SLOW, FAST], make_base(), gain=0.61)
    assert (at.reach, at.forgetting, at.settings, at.share_reached) == (Reach.NOT_REACHED, None, (), 0.0)
    against = compare_at_gain([FAST], [SLOW], make_base(), gain=0.5)
    assert (against.reach, against.forgetting) == (Reach.NOT_REACHED, None)


def test_a_gain_at_the_very_end_of_a_curve_is_unsure() -> None:
    # Documents gain 0.1 or 0.5, 0.3 on average: about half of all resamples fall short of 0.3.
    point = make_point(np.array([[0.1, 0.5, 0.1, 0.5, 0.1, 0.5]]), 0.02)
    at = measure_at_gain([Curve(name="x", points=[point])], make_base(), gain=0.3 - 1e-9)
    assert at.reach is Reach.UNSURE
    assert at.forgetting is None
    assert 0.4 < at.share_reached < 0.8


def test_the_first_crossing_counts_where_a_curve_falls_back() -> None:
    curve = make_curve("x", (0.4, 0.1), (0.1, 0.5), (0.5, 0.9))
    at = measure_at_gain([curve], make_base(), gain=0.2)
    assert at.forgetting is not None
    assert at.forgetting.mean == pytest.approx(0.05)


def test_equal_arms_do_not_differ_and_a_shift_is_found_exactly() -> None:
    generator = np.random.default_rng(0)
    gains, forgettings = 0.4 + 0.05 * generator.normal(size=(3, 6)), 0.1 + 0.05 * generator.normal(size=(3, 6))
    arm = [Curve(name="x", points=[make_point(gains, forgettings)])]
    shifted = [Curve(name="y", points=[make_point(gains, forgettings + 0.02)])]
    same = compare_at_gain(arm, arm, make_base(), gain=0.2)
    assert same.forgetting is not None
    assert (same.forgetting.mean, same.forgetting.low, same.forgetting.p_value) == (0.0, 0.0, 1.0)
    # Both interpolate half-way or so from the base, so the shift counts by the weight 0.2 / mean gain.
    apart = compare_at_gain(shifted, arm, make_base(), gain=0.2)
    assert apart.forgetting is not None
    assert apart.forgetting.mean == pytest.approx(0.02 * 0.2 / gains.mean())
    assert apart.settings == ("y", "x")
    assert apart.forgetting.high - apart.forgetting.low < 0.004  # pairing leaves only the spread of the weight


def test_seeds_that_move_along_the_curve_do_not_count_as_spread() -> None:
    # Forgetting is 0.5 x gain in every seed; they differ only in how far they came.
    gains = np.array([0.3, 0.4, 0.5])[:, None] * np.ones((3, 6))
    at = measure_at_gain([Curve(name="x", points=[make_point(gains, 0.5 * gains)])], make_base(), gain=0.2)
    assert at.forgetting is not None
    assert at.forgetting.mean == pytest.approx(0.1)
    assert at.forgetting.high - at.forgetting.low < 1e-6
    across = measure_at_gain(
        [Curve(name="x", points=[make_point(np.full((3, 6), 0.4), 0.5 * gains)])], make_base(), gain=0.2
    )
    assert across.forgetting is not None
    # Half-way from the base, each seed stands at a quarter of its gain: 0.075, 0.1, 0.125.
    margin = float(stats.t.ppf(0.975, 2)) * 0.025 / np.sqrt(3)
    assert (across.forgetting.high - across.forgetting.low) / 2 == pytest.approx(margin, rel=1e-6)


def test_p_values_are_adjusted_over_the_arms_that_reach_the_gain() -> None:
    generator = np.random.default_rng(2)
    arms = {
        name: [Curve(name="x", points=[make_point(0.4, shift + 0.05 * generator.normal(size=(1, 6)))])]
        for name, shift in (("control", 0.1), ("A", 0.2), ("B", 0.12))
    }
    arms["slow"] = [SLOW]
    found = compare_all_at_gain(arms, make_base(), control="control", gain=0.35, num_resamples=200)
    assert list(found) == ["A", "B", "slow"]
    assert (found["slow"].reach, found["slow"].adjusted_p_value) == (Reach.NOT_REACHED, None)
    alone = [compare_at_gain(arms[name], arms["control"], make_base(), gain=0.35, num_resamples=200) for name in "AB"]
    p_values = [at.forgetting.p_value or 0.0 for at in alone if at.forgetting is not None]
    assert (found["A"].adjusted_p_value, found["B"].adjusted_p_value) == adjust_holm(p_values)


def test_points_and_the_common_gain() -> None:
    assert np.asarray(list_points([SLOW, FAST], make_base())) == pytest.approx(
        np.array([(0.1, 0.0), (0.3, 0.02), (0.4, 0.1), (0.6, 0.3)])
    )
    # Documents that all gain the same leave nothing to chance: the smaller of the largest gains.
    assert find_common_gain([[SLOW], [FAST]], make_base()) == pytest.approx(0.3)
    worse = make_curve("x", (-0.1, 0.2))
    assert find_common_gain([[SLOW], [worse]], make_base()) is None


@pytest.mark.parametrize("num_documents", [3, 12, 60])
def test_at_the_common_gain_every_arm_can_be_compared_and_hardly_beyond(num_documents: int) -> None:
    generator = np.random.default_rng(num_documents)
    base = make_base(num_documents, num_documents)
    arms = {
        name: [
            Curve(
                name="x",
                points=[make_point(mean + 0.3 * generator.normal(size=(1, num_documents)), 0.1, num_documents)],
            )
        ]
        for name, mean in (("control", 1.0), ("A", 1.1), ("B", 1.3))
    }
    gain = find_common_gain(list(arms.values()), base)
    assert gain is not None
    found = compare_all_at_gain(arms, base, control="control", gain=gain)
    assert {at.reach for at in found.values()} == {Reach.REACHED}
    assert all(at.share_reached >= 0.975 for at in found.values())
    beyond = compare_all_at_gain(arms, base, control="control", gain=1.3 * gain)
    assert Reach.REACHED not in {at.reach for at in beyond.values()}


@pytest.mark.parametrize(
    ("arm", "gain", "message"),
    [
        ([], 0.1, "at least one curve"),
        ([Curve(name="x", points=[])], 0.1, "at least one evaluated state"),
        ([SLOW], 0.0, "gain of 0"),
        ([Curve(name="x", points=[make_point(0.1, 0.1, num_documents=5)])], 0.1, "6 and of 5|5 and of 6"),
    ],
)
def test_bad_requests(arm: list[Curve], gain: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        measure_at_gain(arm, make_base(), gain=gain)


def test_arms_with_other_seeds_or_one_document_are_refused() -> None:
    three = [Curve(name="x", points=[make_point(np.full((3, 6), 0.4), 0.1)])]
    with pytest.raises(DataError, match="same seeds"):
        compare_at_gain(three, [FAST], make_base(), gain=0.1)
    with pytest.raises(DataError, match="two documents"):
        measure_at_gain([Curve(name="x", points=[make_point(0.4, 0.1, num_documents=1)])], make_base(1, 1), gain=0.1)


def simulate(generator: np.random.Generator, offset: float) -> list[Curve]:
    """Two learning rates x three points x three seeds, 20 documents; true forgetting is 0.3 x gain + offset x step."""
    curves = []
    learn, keep = 0.3 * generator.normal(size=20), 0.3 * generator.normal(size=20)
    for name, speed in (("slow", 0.5), ("fast", 1.0)):
        luck = 0.05 * generator.normal(size=(3, 1))
        points = []
        for step in (1, 2, 3):
            gain = 0.2 * speed * step
            gains = gain * (1 + learn) * (1 + luck) + 0.01 * generator.normal(size=(3, 20))
            truth = 0.3 * gain + offset * (speed > 0.5)
            points.append(make_point(gains, truth * (1 + keep) + 0.01 * generator.normal(size=(3, 20)), 20))
        curves.append(Curve(name=name, points=points))
    return curves


def test_nominal_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    # The fast rate forgets 0.05 more everywhere, so the slow one stands for the arm: 0.3 x 0.25 at a gain of 0.25.
    base, held, num_draws = make_base(20, 20), 0, 100
    for draw in range(num_draws):
        at = measure_at_gain(simulate(np.random.default_rng(draw), 0.05), base, gain=0.25, num_resamples=200)
        assert at.forgetting is not None
        held += at.forgetting.low <= 0.3 * 0.25 <= at.forgetting.high
    # 0.95 of 100 with a standard error of 0.02.
    assert 0.89 <= held / num_draws <= 1.0
