"""Every sentence of the reading, on Comparisons whose intervals leave only one thing to say."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from oblong.records import Comparison
from oblong.reporting.reading import Topic, read_comparison
from oblong.reporting.verdicts import join_names, verdict
from tests.report_builders import NEW_DOMAIN, make_comparison
from tests.scan_builders import make_plan, make_scan

Changes = Mapping[str, Mapping[str, float]]


def two_arms(arm: tuple[float, float], other: tuple[float, float], **options: object) -> Comparison:
    """Arm A and the control, as (change on German, change on prose); all intervals are +- 0.01."""
    changes: Changes = {
        "A": {NEW_DOMAIN: arm[0], "prose": arm[1]},
        "random": {NEW_DOMAIN: other[0], "prose": other[1]},
    }
    return make_comparison(changes, **options)  # type: ignore[arg-type]


def three_arms(*, a: float, b: float, control: float, general: float = 0.1) -> Comparison:
    return make_comparison(
        {name: {NEW_DOMAIN: change, "prose": general} for name, change in (("A", a), ("B", b), ("random", control))}
    )


class TestLearned:
    def test_every_arm_improved(self) -> None:
        (text,) = read_comparison(three_arms(a=-0.3, b=-0.2, control=-0.4)).about(Topic.LEARNED)
        assert text == (
            "On german help (new domain, 40 documents) every arm improved: its loss fell by 0.2000 (B) to 0.4000 "
            "(random) nats per token."
        )

    def test_every_arm_got_worse(self) -> None:
        (text,) = read_comparison(three_arms(a=0.3, b=0.2, control=0.4)).about(Topic.LEARNED)
        assert text.endswith("every arm got worse: its loss rose by 0.2000 (B) to 0.4000 (random) nats per token.")

    def test_nothing_can_be_told(self) -> None:
        (text,) = read_comparison(three_arms(a=0.005, b=-0.005, control=0.0)).about(Topic.LEARNED)
        assert text == (
            "On german help (new domain, 40 documents) no arm's change of loss is distinguishable from zero."
        )

    def test_one_of_each(self) -> None:
        (text,) = read_comparison(three_arms(a=-0.3, b=0.2, control=0.005)).about(Topic.LEARNED)
        assert text == (
            "On german help (new domain, 40 documents) A (-0.3000) improved; B (+0.2000) got worse; "
            "for random the interval holds zero."
        )

    def test_an_interval_that_touches_zero_holds_it(self) -> None:
        (text,) = read_comparison(three_arms(a=-0.01, b=0.01, control=0.0)).about(Topic.LEARNED)
        assert "no arm's change" in text

    def test_a_single_arm_is_named(self) -> None:
        comparison = make_comparison({"random": {NEW_DOMAIN: -0.3, "prose": 0.1}})
        (text,) = read_comparison(comparison).about(Topic.LEARNED)
        assert text.endswith("random improved: its loss fell by 0.3000 nats per token.")


class TestKept:
    def test_general_text_is_called_so(self) -> None:
        (text,) = read_comparison(three_arms(a=-0.3, b=-0.2, control=-0.4)).about(Topic.KEPT)
        assert text.startswith("On prose (general text, 40 documents) every arm got worse")

    def test_one_document_is_singular(self) -> None:
        comparison = two_arms((-0.3, 0.1), (-0.3, 0.1), num_documents=1)
        assert "(general text, 1 document)" in read_comparison(comparison).about(Topic.KEPT)[0]


class TestAgainstTheControl:
    def test_numbers_and_their_meaning(self) -> None:
        comparison = two_arms((-0.35, 0.105), (-0.3, 0.1))
        (text,) = read_comparison(comparison).about(Topic.CONTROL)
        assert text == (
            "A minus random, nats per token: on german help -0.0500 [-0.0600, -0.0400], a lower loss; on prose "
            "+0.0050 [-0.0050, +0.0150], not distinguishable from zero with 40 documents and 2 seeds. "
            "Taken together: learned german help better, while on prose no difference can be told."
        )

    def test_a_higher_loss_is_called_so(self) -> None:
        (text,) = read_comparison(two_arms((-0.2, 0.1), (-0.3, 0.1))).about(Topic.CONTROL)
        assert "on german help +0.1000 [+0.0900, +0.1100], a higher loss" in text

    @pytest.mark.parametrize(
        ("arm", "expected"),
        [
            ((-0.4, 0.0), "learned german help better and kept prose better"),
            ((-0.2, 0.2), "learned german help worse and kept prose worse"),
            (
                (-0.4, 0.2),
                "learned german help better but kept prose worse (a trade-off, which by itself ranks neither arm)",
            ),
            (
                (-0.2, 0.0),
                "learned german help worse but kept prose better (a trade-off, which by itself ranks neither arm)",
            ),
            ((-0.4, 0.1), "learned german help better, while on prose no difference can be told"),
            ((-0.3, 0.0), "kept prose better, while on german help no difference can be told"),
            ((-0.3, 0.2), "kept prose worse, while on german help no difference can be told"),
            ((-0.3, 0.1), "no difference can be told from these intervals"),
        ],
    )
    def test_verdicts(self, arm: tuple[float, float], expected: str) -> None:
        assert verdict(two_arms(arm, (-0.3, 0.1)), "A") == expected

    @pytest.mark.parametrize("arm", [(-0.4, 0.0), (-0.4, 0.2), (-0.3, 0.0), (-0.25, 0.1)])
    def test_nobody_is_favoured(self, arm: tuple[float, float]) -> None:
        """Swapping the names of arm and control swaps better and worse and changes nothing else."""
        forward = verdict(two_arms(arm, (-0.3, 0.1)), "A")
        swapped = make_comparison(
            {
                "A": {NEW_DOMAIN: -0.3, "prose": 0.1},
                "random": {NEW_DOMAIN: arm[0], "prose": arm[1]},
            }
        )
        exchanged = forward.replace("better", "?").replace("worse", "better").replace("?", "worse")
        assert verdict(swapped, "A") == exchanged

    def test_mixed_on_general_text_is_a_trade_off(self) -> None:
        comparison = make_comparison(
            {
                "A": {NEW_DOMAIN: -0.3, "prose": 0.0, "code": 0.2},
                "random": {NEW_DOMAIN: -0.3, "prose": 0.1, "code": 0.1},
            }
        )
        assert verdict(comparison, "A") == (
            "kept prose better but kept code worse (a trade-off, which by itself ranks neither arm), "
            "while on german help no difference can be told"
        )

    def test_a_missing_control_is_said(self) -> None:
        comparison = two_arms((-0.3, 0.1), (-0.3, 0.1), control="absent")
        texts = read_comparison(comparison).about(Topic.CONTROL)
        assert texts[0] == "A: no comparison with the control (absent) is recorded."


class TestFairness:
    def test_different_gains_are_not_ranked(self) -> None:
        texts = read_comparison(two_arms((-0.4, 0.1), (-0.3, 0.1))).about(Topic.FAIRNESS)
        assert texts == (
            "The arms did not learn equally much: on german help their losses ended between 2.5991 and 2.6991. "
            "Forgetting tends to grow with learning, so ranking the arms by forgetting alone is not fair; compare them "
            "at the same gain.",
        )

    def test_undecided_gains_are_not_called_equal(self) -> None:
        texts = read_comparison(two_arms((-0.305, 0.1), (-0.3, 0.1))).about(Topic.FAIRNESS)
        assert texts == (
            "No arm's final loss on german help is distinguishable from the control's, so forgetting is compared with "
            "the control at about the same gain, as far as these intervals tell.",
        )

    def test_unequal_budgets_are_said(self) -> None:
        comparison = two_arms((-0.305, 0.1), (-0.3, 0.1))
        runs = tuple(
            run.model_copy(update={"run": run.run.model_copy(update={"num_trainable": 1_000_000})})
            if run.arm == "A"
            else run
            for run in comparison.runs
        )
        texts = read_comparison(comparison.model_copy(update={"runs": runs})).about(Topic.FAIRNESS)
        assert texts[-1] == (
            "The arms do not train equally many parameters: from 1.0 M (A) to 10.5 M (random). A difference between "
            "arms may come from that."
        )

    def test_a_few_percent_of_budget_are_not_worth_a_word(self) -> None:
        texts = read_comparison(two_arms((-0.305, 0.1), (-0.3, 0.1))).about(Topic.FAIRNESS)
        assert not any("parameters" in text for text in texts)


class TestLimits:
    @pytest.mark.parametrize(
        ("seeds", "expected"),
        [
            ((0,), "One seed: nothing here speaks about seed-to-seed variation."),
            (
                (0, 1),
                "2 seeds: the intervals speak about the choice of documents, not about seed-to-seed variation.",
            ),
            ((0, 1, 2), "3 seeds: the intervals speak about the choice of documents and of seeds."),
        ],
    )
    def test_seeds(self, seeds: tuple[int, ...], expected: str) -> None:
        comparison = two_arms((-0.4, 0.1), (-0.3, 0.1), seeds=seeds)
        assert expected in read_comparison(comparison).about(Topic.LIMITS)

    def test_the_arm_with_fewest_seeds_counts(self) -> None:
        comparison = two_arms((-0.4, 0.1), (-0.3, 0.1), seeds=(0, 1))
        comparison = comparison.model_copy(update={"runs": comparison.runs[1:]})
        texts = read_comparison(comparison).about(Topic.LIMITS)
        assert "One seed: nothing here speaks about seed-to-seed variation." in texts

    def test_chance_is_counted(self) -> None:
        texts = read_comparison(three_arms(a=-0.3, b=-0.2, control=-0.4)).about(Topic.LIMITS)
        assert (
            "4 intervals against the control are shown. If no arm differed from it at all, about 0.2 of them would "
            "still exclude zero by chance."
        ) in texts

    def test_diverged_runs(self) -> None:
        comparison = two_arms((0.5, 0.9), (-0.3, 0.1), diverged=["A"])
        texts = read_comparison(comparison).about(Topic.LIMITS)
        assert texts[0] == "Training diverged in A (2 of 2 runs); its numbers describe a broken model."

    def test_one_setting_is_not_a_front(self) -> None:
        assert read_comparison(two_arms((-0.4, 0.1), (-0.3, 0.1))).about(Topic.LIMITS)[-1] == (
            "Each arm stands for one setting of learning rate and training length; at another setting the arms may "
            "come in another order."
        )


class TestHeadline:
    def test_counts_verdicts_and_seeds(self) -> None:
        assert read_comparison(two_arms((-0.4, 0.2), (-0.3, 0.005), seeds=(0,))).headline == (
            "Both arms improved on german help. 1 of 2 arms got worse on prose; for 1 it cannot be told.",
            "Against the control, random: A learned german help better but kept prose worse (a trade-off, which by "
            "itself ranks neither arm).",
            "All of this rests on 1 seed.",
        )

    def test_nothing_to_tell(self) -> None:
        changes, control, _ = read_comparison(two_arms((0.001, 0.0), (0.0, 0.0))).headline
        assert changes == (
            "No arm demonstrably improved on german help; for 2 it cannot be told. "
            "No arm demonstrably got worse on prose; for 2 it cannot be told."
        )
        assert control == "No arm's difference to the control, random, can be told from zero."

    def test_arms_of_one_verdict_share_a_clause(self) -> None:
        headline = read_comparison(three_arms(a=-0.5, b=-0.5, control=-0.4)).headline
        assert headline[1] == (
            "Against the control, random: A and B learned german help better, while on prose no difference can be told."
        )

    def test_three_seeds_need_no_caveat(self) -> None:
        headline = read_comparison(two_arms((-0.4, 0.2), (-0.3, 0.1), seeds=(0, 1, 2))).headline
        assert not any("rests on" in text for text in headline)

    def test_a_lonely_arm(self) -> None:
        comparison = make_comparison({"random": {NEW_DOMAIN: 0.0, "prose": 0.1}}, seeds=(0, 1, 2))
        assert read_comparison(comparison).headline == (
            "The one arm has not demonstrably improved on german help. The one arm got worse on prose.",
        )

    def test_the_brief_ends_with_what_qualifies_it(self) -> None:
        reading = read_comparison(two_arms((-0.4, 0.2), (-0.3, 0.1)))
        assert reading.brief == (*reading.headline, *reading.about(Topic.FAIRNESS), *reading.about(Topic.LIMITS))


def test_a_corpus_without_changes_is_passed_over() -> None:
    comparison = two_arms((-0.4, 0.2), (-0.3, 0.1))
    changes = tuple(change for change in comparison.changes if change.corpus != "prose")
    assert read_comparison(comparison.model_copy(update={"changes": changes})).about(Topic.KEPT) == ()


@pytest.mark.parametrize(
    ("names", "expected"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_names_are_joined_as_in_a_sentence(names: list[str], expected: str) -> None:
    assert join_names(names) == expected


def test_the_builders_plans_differ() -> None:
    scan = make_scan()
    lowest = make_plan("lowest", scan)
    highest = make_plan("highest", scan, order="highest")
    assert not lowest.tensor_names & highest.tensor_names
