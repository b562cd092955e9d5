from __future__ import annotations

import pytest

from oblong.errors import DataError
from oblong.evaluation.multiplicity import adjust_holm
from oblong.evaluation.task_changes import ALL_TASKS, compute_task_changes, compute_wilson
from tests.suite_builders import make_task_score

BEFORE = {"a": make_task_score([1] * 8 + [0] * 4), "b": make_task_score([1, 0, 1, 0], digest="sha256:1")}
AFTER = {"a": make_task_score([0] * 7 + [1, 1, 0, 0, 0]), "b": make_task_score([1, 0, 0, 1], digest="sha256:1")}


def test_counts_and_tests_by_hand() -> None:
    a, b, together = compute_task_changes(BEFORE, [AFTER], arm="tuned")
    assert (a.task, a.num_kept, a.num_lost, a.num_gained, a.num_missed) == ("a", 1, 7, 1, 3)
    assert (a.before, a.after) == (8 / 12, 2 / 12)
    # 1 of 8 changed in the rarer direction: 2 (1 + 8) / 2^8; 1 of 2: certain.
    assert (a.p_value, b.p_value) == (18 / 256, 1.0)
    assert (a.adjusted_p_value, b.adjusted_p_value) == adjust_holm([18 / 256, 1.0])
    assert (together.task, together.num_lost, together.num_gained) == (ALL_TASKS, 8, 2)
    assert together.num_answers == 16
    assert together.adjusted_p_value is None
    assert a.difference is not None
    assert a.difference.mean == pytest.approx(-6 / 12)
    assert a.difference.low < -0.5 < a.difference.high


def test_one_task_has_no_summary() -> None:
    (only,) = compute_task_changes({"a": BEFORE["a"]}, [{"a": AFTER["a"]}], arm="tuned")
    assert only.adjusted_p_value == only.p_value


def test_the_order_of_the_tasks_does_not_matter() -> None:
    turned = dict(reversed(AFTER.items()))
    assert compute_task_changes(BEFORE, [turned], arm="x") == compute_task_changes(BEFORE, [AFTER], arm="x")


def test_the_same_answers_under_more_seeds_are_no_more_evidence() -> None:
    """Three seeds that answer alike: questions are resampled, not answers, so the interval does not shrink."""
    once, _, _ = compute_task_changes(BEFORE, [AFTER], arm="x")
    thrice, _, _ = compute_task_changes(BEFORE, [AFTER] * 3, arm="x")
    assert thrice.num_answers == 3 * once.num_answers
    assert (thrice.before, thrice.after) == (once.before, once.after)
    assert once.difference is not None
    assert thrice.difference is not None
    assert thrice.difference.high - thrice.difference.low == pytest.approx(
        once.difference.high - once.difference.low, rel=0.05
    )
    assert thrice.p_value > 0.01


def test_unchanged_answers_have_no_interval() -> None:
    change, *_ = compute_task_changes(BEFORE, [BEFORE, BEFORE], arm="x")
    assert (change.difference, change.p_value) == (None, 1.0)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"a": AFTER["a"]}, "cannot pair the tasks a, b with a:"),
        (AFTER | {"b": make_task_score([1, 0, 0, 1])}, "cannot pair the answers to b"),
        (AFTER | {"b": make_task_score([1, 0, 0, 1], digest="sha256:1", metric="acc_norm")}, "to b"),
    ],
)
def test_other_questions_are_refused(after: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        compute_task_changes(BEFORE, [after], arm="x")  # type: ignore[list-item]


def test_wilson_by_hand() -> None:
    # (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), p = 0.8, n = 10, z = 1.959964.
    assert compute_wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    assert compute_wilson(0, 10)[0] == pytest.approx(0, abs=1e-12)
