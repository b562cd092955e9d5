from __future__ import annotations

from collections.abc import Mapping

from oblong.comparing.contrasts import adjust_changes
from oblong.records import Comparison
from oblong.reporting.formats import format_p_value
from oblong.reporting.reading import Topic, read_comparison
from oblong.reporting.significance import describe_significance
from oblong.reporting.verdicts import UNTOLD, verdict
from tests.report_builders import NEW_DOMAIN, make_comparison

P_VALUES: Mapping[str, float] = {"A": 0.004, "B": 0.03, "C": 0.6}


def make_tested(p_values: Mapping[str, float] = P_VALUES) -> Comparison:
    """Arms with these p-values against the control on prose; all learned alike."""
    changes = {name: {NEW_DOMAIN: -0.3, "prose": 0.02 if p < 0.05 else 0.005} for name, p in p_values.items()}
    comparison = make_comparison({**changes, "random": {NEW_DOMAIN: -0.3, "prose": 0.0}})
    tested = [
        change.model_copy(
            update={
                "against_control": change.against_control.model_copy(
                    update={"p_value": p_values[change.arm] if change.corpus == "prose" else 1.0}
                )
            }
        )
        if change.against_control
        else change
        for change in comparison.changes
    ]
    return comparison.model_copy(update={"changes": adjust_changes(tested)})


def test_names_what_is_significant_and_what_is_not() -> None:
    german, prose = describe_significance(make_tested())
    # Holm: 3 x 0.004, 2 x 0.03, 0.6.
    assert prose == (
        "On prose A (+0.0200 nats per token, p = 0.012) differs significantly from random. On prose no significant "
        "difference from random is found for B (+0.0200 nats per token, p = 0.06) and C (+0.0050 nats per token, "
        "p = 0.6), which does not show that they are equal. These p-values are adjusted for 3 arms (Holm)."
    )
    assert german.startswith("On german help no significant difference from random is found for A (+0.0000 nats")


def test_one_arm_needs_no_correction_and_all_may_differ() -> None:
    _, prose = describe_significance(make_tested({"A": 0.00002}))
    assert prose == "On prose A (+0.0200 nats per token, p < 0.0001) differs significantly from random."
    _, both = describe_significance(make_tested({"A": 0.001, "B": 0.002}))
    assert both == (
        "On prose A (+0.0200 nats per token, p = 0.002) and B (+0.0200 nats per token, p = 0.002) differ significantly "
        "from random. These p-values are adjusted for 2 arms (Holm)."
    )


def test_the_verdict_claims_only_what_survives_the_correction() -> None:
    comparison = make_tested()
    assert verdict(comparison, "A").startswith("kept prose worse")
    assert verdict(comparison, "B").startswith(UNTOLD)  # its own interval excludes zero
    reading = read_comparison(comparison)
    (about_b,) = [text for text in reading.about(Topic.CONTROL) if text.startswith("B ")]
    assert "a higher loss taken by itself, not significant among so many arms" in about_b
    assert set(reading.about(Topic.SIGNIFICANCE)) < set(reading.brief)
    assert not any("by chance" in text for text in reading.about(Topic.LIMITS))


def test_older_records_have_no_p_values_and_no_sentence() -> None:
    comparison = make_comparison({"A": {NEW_DOMAIN: -0.3, "prose": 0.1}, "random": {NEW_DOMAIN: -0.3, "prose": 0.0}})
    assert describe_significance(comparison) == ()
    assert read_comparison(comparison).about(Topic.SIGNIFICANCE) == ()


def test_p_values_are_not_shown_finer_than_they_are_known() -> None:
    assert [format_p_value(value) for value in (0.0, 0.00012, 0.0314, 0.996, 1.0)] == [
        "p < 0.0001",
        "p = 0.00012",
        "p = 0.031",
        "p = 1",
        "p = 1",
    ]
