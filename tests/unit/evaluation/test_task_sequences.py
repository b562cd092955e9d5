from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblong.errors import DataError
from oblong.evaluation.task_sequences import summarise_sequence

# Three tasks: the second is learned at the cost of the first; the third helps the first back and costs the second.
SCORES = [
    [0.9, 0.3, 0.2],
    [0.6, 0.8, 0.4],
    [0.7, 0.5, 0.9],
]
BEFORE = [0.5, 0.2, 0.1]


def test_the_measures_by_hand() -> None:
    found = summarise_sequence(SCORES, BEFORE)
    assert found.average == pytest.approx((0.7 + 0.5 + 0.9) / 3)
    # ((0.7 - 0.9) + (0.5 - 0.8)) / 2
    assert found.backward_transfer == pytest.approx(-0.25)
    # ((0.3 - 0.2) + (0.4 - 0.1)) / 2
    assert found.forward_transfer == pytest.approx(0.2)
    # ((max(0.9, 0.6) - 0.7) + (max(0.3, 0.8) - 0.5)) / 2
    assert found.forgetting == pytest.approx(0.25)


def test_forgetting_sees_what_was_gained_in_between_and_lost_again() -> None:
    # Task 0 rises from 0.5 to 0.9 with task 1 and falls back: nothing lost since it was trained, 0.4 since its best.
    found = summarise_sequence([[0.5, 0.0, 0.0], [0.9, 0.7, 0.0], [0.5, 0.7, 0.8]])
    assert found.backward_transfer == 0.0
    assert found.forgetting == pytest.approx(0.2)
    assert found.forward_transfer is None


@given(st.integers(2, 6), st.integers(0, 1000))
def test_a_model_that_never_changes_forgets_nothing(num_tasks: int, seed: int) -> None:
    row = list(np.random.default_rng(seed).uniform(size=num_tasks))
    found = summarise_sequence([row] * num_tasks, row)
    assert (found.backward_transfer, found.forward_transfer, found.forgetting) == (0.0, 0.0, 0.0)


@given(st.integers(2, 6), st.integers(0, 1000))
def test_forgetting_is_at_least_what_backward_transfer_lost(num_tasks: int, seed: int) -> None:
    scores = np.random.default_rng(seed).uniform(size=(num_tasks, num_tasks)).tolist()
    found = summarise_sequence(scores)
    assert found.forgetting >= -found.backward_transfer - 1e-12


@pytest.mark.parametrize(
    ("scores", "before", "message"),
    [
        ([[1.0]], None, "at least two tasks"),
        ([[1.0, 2.0], [1.0]], None, "square"),
        ([[1.0, float("nan")], [1.0, 1.0]], None, "not a finite number"),
        ([[1.0, 1.0], [1.0, 1.0]], [1.0], "one finite score per task"),
        ([[1.0, 1.0], [1.0, 1.0]], [1.0, float("inf")], "one finite score per task"),
    ],
)
def test_bad_matrices(scores: list[list[float]], before: list[float] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        summarise_sequence(scores, before)
