"""A difference no larger than the noise floor is marked in tables, and words make no claim of it."""

from __future__ import annotations

import pytest

from oblong.records import Comparison
from oblong.reporting.comparison_tables import outcome_caption, outcome_cells, outcome_sections
from oblong.reporting.gain_reading import describe_gains
from oblong.reporting.gain_tables import gain_caption, gain_cells, gain_sections, gain_verdict
from oblong.reporting.html import render_report
from oblong.reporting.noise_floors import NOISE_MARK, find_noise_floor, format_floor
from oblong.reporting.reading import Topic, read_comparison
from oblong.reporting.verdicts import verdict
from tests.report_builders import CONTROL, NEW_DOMAIN, make_comparison
from tests.sweep_builders import GENERAL, SweptArm, make_sweep

FLOORS = {NEW_DOMAIN: 0.0001, "prose": 0.003}
SMALL_AND_LARGE = {
    "small": {NEW_DOMAIN: -0.3, "prose": 0.002},
    "large": {NEW_DOMAIN: -0.3, "prose": 0.05},
    CONTROL: {NEW_DOMAIN: -0.3, "prose": 0.0},
}


def make_noisy() -> Comparison:
    """Two arms whose prose got worse beyond doubt, one of them by less than the noise floor."""
    comparison = make_comparison(SMALL_AND_LARGE, half_widths={"prose": 0.001})
    tested = tuple(
        change.model_copy(update={"adjusted_p_value": 0.001 if change.corpus == "prose" else 1.0})
        if change.against_control
        else change
        for change in comparison.changes
    )
    return comparison.model_copy(update={"noise_floors": FLOORS, "changes": tested})


def make_noisy_sweep(floor: float) -> Comparison:
    """An arm that forgets 0.0097 less than the control, significantly."""
    arms = {"A": SweptArm(cost=0.1, p_value=0.001), CONTROL: SweptArm(cost=0.2)}
    return make_sweep(arms).model_copy(update={"noise_floors": dict.fromkeys(GENERAL, floor)})


def test_the_floor_of_several_texts_is_at_most_their_mean() -> None:
    comparison = make_noisy()
    assert find_noise_floor(comparison, ["prose"]) == 0.003
    assert find_noise_floor(comparison, ["prose", NEW_DOMAIN]) == pytest.approx(0.00155)
    assert find_noise_floor(comparison, ["prose"], measure="kl") == 0.0  # none is measured of the divergence
    assert find_noise_floor(make_comparison(SMALL_AND_LARGE), ["prose"]) == 0.0
    assert [format_floor(floor) for floor in (0.0, 0.00042, 0.0000037)] == ["0", "0.00042", "4e-06"]


def test_what_is_below_the_noise_is_marked_and_not_bold() -> None:
    comparison = make_noisy()
    small, large, control = outcome_sections(comparison)[1].rows
    assert outcome_cells(small)[3:5] == (
        f"+0.0020 {NOISE_MARK} [+0.0010, +0.0030]",
        f"+0.0020 {NOISE_MARK} [+0.0010, +0.0030]",
    )
    assert NOISE_MARK not in "".join(outcome_cells(large))
    assert [(row.is_changed, row.is_different) for row in (small, large, control)] == [
        (False, False),
        (True, True),
        (False, False),
    ]
    assert f"{NOISE_MARK}: no larger than the noise floor of its text (german help 0.0001, prose 0.003)" in (
        outcome_caption(comparison)
    )
    assert NOISE_MARK not in outcome_caption(make_comparison(SMALL_AND_LARGE))


def test_words_make_no_claim_below_the_noise() -> None:
    comparison = make_noisy()
    reading = read_comparison(comparison)
    (significance,) = (text for text in reading.about(Topic.SIGNIFICANCE) if "On prose" in text)
    assert "On prose large (+0.0500 nats per token, p = 0.001) differs significantly from random." in significance
    assert (
        "On prose small (+0.0020 nats per token, p = 0.001) differs from random by no more than the noise floor of "
        "0.003, by which two evaluations of one model differ: that is not worth a claim, whatever the p-value."
    ) in significance
    assert verdict(comparison, "small") == "no difference that can be told exceeds the noise floor"
    assert verdict(comparison, "large").startswith("kept prose worse")
    assert "1 of 3 arms got worse on prose; for 2 it cannot be told." in reading.headline[0]
    assert "for small no difference that can be told exceeds the noise floor" in reading.headline[1]
    (kept,) = reading.about(Topic.KEPT)
    assert "large (+0.0500) got worse" in kept
    assert "for small the change is below the noise floor" in kept
    assert any("differ by up to the noise floor (german help 0.0001" in text for text in reading.about(Topic.LIMITS))
    assert not any("noise" in text for text in read_comparison(make_comparison(SMALL_AND_LARGE)).brief)


@pytest.mark.parametrize(("floor", "words"), [(0.0096, "forgets less"), (0.0098, "below noise")])
def test_at_a_gain_the_floor_decides_too(floor: float, words: str) -> None:
    comparison = make_noisy_sweep(floor)
    (row,) = (row for row in gain_sections(comparison)[0].rows if row.arm == "A")
    assert gain_verdict(row) == words
    assert (NOISE_MARK in gain_cells(row)[5]) is (words == "below noise")
    text = " ".join(describe_gains(comparison)[0])
    assert ("by no more than the noise floor of 0.0098" in text) is (words == "below noise")
    assert ("A (-0.0097, p = 0.001) forgets significantly less" in text) is (words == "forgets less")
    assert NOISE_MARK in gain_caption(comparison, gain_sections(comparison))


def test_a_floor_of_zero_is_said_and_marks_nothing() -> None:
    comparison = make_comparison(SMALL_AND_LARGE).model_copy(update={"noise_floors": {NEW_DOMAIN: 0.0, "prose": 0.0}})
    assert any("agree exactly: the noise floor is zero" in text for text in read_comparison(comparison).brief)
    assert NOISE_MARK not in outcome_caption(comparison) + render_report(comparison=comparison)


def test_the_page_marks_it() -> None:
    page = render_report(comparison=make_noisy())
    assert f"+0.0020 {NOISE_MARK} <span" in page
    assert "and the difference exceeds the noise floor" in page
