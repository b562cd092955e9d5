"""Changes of a comparison: what is subtracted from what, and what is paired with what."""

from __future__ import annotations

import pytest

from oblong.comparing.contrasts import compute_answer_changes, compute_changes
from oblong.records import ArmRun
from tests.report_builders import make_demo_comparison
from tests.suite_builders import make_task_score


def test_changes_are_after_minus_before_and_after_minus_control() -> None:
    comparison = make_demo_comparison()
    changes = compute_changes(comparison.base, comparison.runs, control=comparison.control)
    by_key = {(change.arm, change.corpus): change for change in changes}
    assert len(changes) == len(comparison.arms) * len(comparison.base.corpora)
    for (arm, corpus), change in by_key.items():
        losses = [run.evaluation.corpora[corpus].loss for run in comparison.runs if run.arm == arm]
        assert change.before == comparison.base.corpora[corpus].loss
        assert change.after == pytest.approx(sum(losses) / len(losses))
        assert change.difference.mean == pytest.approx(change.after - change.before)
        if arm == comparison.control:
            assert change.against_control is None
            assert change.adjusted_p_value is None
        else:
            control = by_key[comparison.control, corpus]
            assert change.against_control is not None
            assert change.against_control.mean == pytest.approx(change.after - control.after)
            assert change.against_control.p_value is not None
            assert change.adjusted_p_value is not None
            assert change.adjusted_p_value >= change.against_control.p_value


def test_seeds_are_paired_whatever_the_order_of_the_runs() -> None:
    comparison = make_demo_comparison()
    shuffled: tuple[ArmRun, ...] = tuple(reversed(comparison.runs))
    expected = compute_changes(comparison.base, comparison.runs, control=comparison.control)
    found = compute_changes(comparison.base, shuffled, control=comparison.control)
    assert {(change.arm, change.corpus): change for change in found} == {
        (change.arm, change.corpus): change for change in expected
    }


def test_answers_of_the_seeds_are_pooled_and_runs_without_answers_left_out() -> None:
    comparison = make_demo_comparison()
    base = comparison.base.model_copy(update={"suite": {"cities": make_task_score([1, 1, 0, 0])}})
    after = {"cities": make_task_score([1, 0, 0, 0])}
    without = comparison.runs[0]
    runs = [without] + [
        run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"suite": after})})
        for run in comparison.runs[1:]
    ]
    changes = {change.arm: change for change in compute_answer_changes(base, runs)}
    assert list(changes) == list(comparison.arms)
    for arm, change in changes.items():
        assert change.num_seeds == sum(run.arm == arm for run in comparison.runs) - (arm == without.arm)
        assert change.num_lost == change.num_seeds
    assert compute_answer_changes(comparison.base, runs) == ()
