"""What the reading says of a sweep, sentence by sentence."""

from __future__ import annotations

from oblong.records import Comparison, Reach
from oblong.reporting.gain_reading import describe_gains
from oblong.reporting.gain_tables import gain_caption, gain_cells, gain_sections, render_gains
from oblong.reporting.reading import Topic, read_comparison
from tests.report_builders import CONTROL, make_demo_comparison
from tests.sweep_builders import SweptArm, make_many_arms, make_sweep


def describe_first(comparison: Comparison) -> tuple[str, ...]:
    return describe_gains(comparison)[0]


def test_the_headline_is_what_was_found_at_the_same_gain() -> None:
    assert read_comparison(make_sweep()).headline == (
        "At a gain of 0.3600 nats per token on german help, random has forgotten +0.0194 [+0.0134, +0.0254] of english "
        "prose and python code (each weighs the same). kappa-lowest-within-role (-0.0107, p < 0.0001) forgets "
        "significantly less than random. kappa-highest (+0.0097, p = 0.012) and kappa-lowest (+0.0107, p = 0.0021) "
        "forget significantly more than random.",
        "No significant difference from random is found for ewc (-0.0039, p = 0.41), which does not show that it is "
        "equal. These p-values are adjusted for 4 arms (Holm). freeze-bottom does not get to this gain. lora is too "
        "close to the end of the curves to be compared.",
    )


def test_a_control_that_forgot_less_than_nothing_is_explained() -> None:
    (text, *_) = describe_first(make_sweep({"A": SweptArm(cost=0.1), CONTROL: SweptArm(cost=-0.2)}))
    assert "of english prose and python code (each weighs the same) (below zero: its loss fell). No arm forgets" in text


def test_where_nothing_is_forgotten_arms_differ_in_what_they_gain() -> None:
    arms = {
        "A": SweptArm(cost=-0.3, p_value=0.01),
        "B": SweptArm(cost=-0.1, p_value=0.01),
        CONTROL: SweptArm(cost=-0.2),
    }
    (text, *_) = describe_first(make_sweep(arms))
    assert "By this measure no arm has forgotten anything" in text
    assert "A (-0.0097, p = 0.01) improves significantly more than random." in text
    assert "B (+0.0097, p = 0.01) improves significantly less than random." in text
    (section, *_) = gain_sections(make_sweep(arms))
    verdicts = {row.arm: gain_cells(row, all_improved=section.all_improved)[7] for row in section.rows}
    assert verdicts == {"A": "improves more", "B": "improves less", CONTROL: "control"}


def test_nobody_is_favoured() -> None:
    arms = {"A": SweptArm(cost=0.1, p_value=0.01), CONTROL: SweptArm(cost=0.2)}
    better = describe_first(make_sweep(arms))[0]
    worse = describe_first(make_sweep({**arms, "A": SweptArm(cost=0.3, p_value=0.01)}))[0]
    assert "A (-0.0097, p = 0.01) forgets significantly less than random. No arm forgets significantly more" in better
    assert "No arm forgets significantly less than random. A (+0.0097, p = 0.01) forgets significantly more" in worse


def test_many_arms_without_a_difference_are_named_without_numbers() -> None:
    _, rest = describe_first(make_sweep(make_many_arms()))
    assert "ewc, kappa-lowest, l2_sp" in rest
    assert "19 arms (Holm)" in rest
    assert "+0." not in rest


def test_a_control_that_learned_nothing_or_too_little_ends_the_comparison() -> None:
    assert describe_first(make_sweep(gain=None)) == (
        "random, the control, learned nothing, so there is no gain at which to compare forgetting.",
    )
    comparison = make_sweep({"A": SweptArm(cost=0.1), CONTROL: SweptArm(cost=0.2, reach=Reach.UNSURE)})
    assert describe_gains(comparison) == (
        (
            "At a gain of 0.3600 nats per token on german help, nothing can be compared on english prose and python "
            "code, pooled (each weighs the same); english prose; python code: random, the control, is there too close "
            "to the end of its curves.",
        ),
    )


def test_a_best_rate_at_the_edge_is_a_warning() -> None:
    limits = read_comparison(make_sweep()).about(Topic.LIMITS)
    assert limits[0] == (
        "The best learning rate is at the edge of the sweep: the lowest for ewc (5e-05); the highest for kappa-highest "
        "(8e-04). A rate beyond it may forget less: sweep further before concluding."
    )
    inside = read_comparison(make_sweep({CONTROL: SweptArm(cost=0.2)}))
    assert not any("edge" in text for text in inside.about(Topic.LIMITS))


def test_few_seeds_are_a_warning_and_three_are_not() -> None:
    two, three = (read_comparison(make_sweep(seeds=range(count))) for count in (2, 3))
    assert "All of this rests on 2 seeds." in two.headline
    assert any("not about seed-to-seed variation" in text for text in two.brief)
    assert not any("rests on" in text for text in three.headline)


def test_what_was_tried_is_said() -> None:
    limits = read_comparison(make_sweep()).about(Topic.LIMITS)
    assert "3 learning rates were tried, 5e-05, 2e-04 and 8e-04, for at most 60 steps" in limits[1]
    one = read_comparison(make_sweep({CONTROL: SweptArm(cost=0.2)}, rates={"2e-04": 2e-4}))
    assert one.about(Topic.LIMITS)[0].startswith("One learning rate was tried, 2e-04, for at most 60 steps")


def test_an_uneven_sweep_is_unfair() -> None:
    comparison = make_sweep({"A": SweptArm(cost=0.1), CONTROL: SweptArm(cost=0.2)})
    assert not any("equally many learning rates" in text for text in read_comparison(comparison).brief)
    (first, *others) = comparison.retention
    fewer = first.arms[0].model_copy(update={"curves": first.arms[0].curves[1:]})
    uneven = first.model_copy(update={"arms": (fewer, first.arms[1])})
    fairness = read_comparison(comparison.model_copy(update={"retention": (uneven, *others)})).about(Topic.FAIRNESS)
    assert any("equally many learning rates: A 2, random 3." in text for text in fairness)


def test_runs_that_ended_early_are_named() -> None:
    comparison = make_sweep({"A": SweptArm(cost=0.1), CONTROL: SweptArm(cost=0.2)})
    runs = tuple(
        run.model_copy(update={"stopped": "hopeless"}) if run.arm == "A" and run.learning_rate == 8e-4 else run
        for run in comparison.runs
    )
    limits = read_comparison(comparison.model_copy(update={"runs": runs})).about(Topic.LIMITS)
    assert any(text.startswith("3 of 18 runs ended early") and "A (8e-04)" in text for text in limits)


def test_a_sweep_is_not_judged_where_its_trainings_ended() -> None:
    reading = read_comparison(make_sweep())
    assert len(reading.about(Topic.GAIN)) == 2
    assert reading.about(Topic.CONTROL) == reading.about(Topic.SIGNIFICANCE) == ()
    assert not any("did not learn equally much" in text for text in reading.about(Topic.FAIRNESS))
    assert read_comparison(make_demo_comparison()).about(Topic.GAIN) == ()


def test_forgetting_by_divergence_is_called_so_everywhere() -> None:
    comparison = make_sweep()
    both = (*comparison.retention, *(text.model_copy(update={"measure": "kl"}) for text in comparison.retention))
    comparison = comparison.model_copy(update={"retention": both})
    by_divergence = [text for text in read_comparison(comparison).about(Topic.GAIN) if "by divergence from" in text]
    assert len(by_divergence) == 3
    by_loss, by_kl = render_gains(comparison)
    assert "by divergence from the base" in str(by_kl.title)
    assert by_kl.caption == "Forgetting: KL(base || model); the rest as above."
    assert "Forgetting: rise of the loss, nats per token" in str(by_loss.caption)
    on_page = gain_caption(comparison, gain_sections(comparison))
    assert on_page.startswith("Forgetting: rise of the loss or, by divergence, KL(base || model), nats per token")
    assert on_page.count("The control is random.") == 1
