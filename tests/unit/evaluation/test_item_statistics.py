"""McNemar, Holm and the noise floor."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from oblong.errors import DataError
from oblong.evaluation.multiplicity import adjust_holm
from oblong.evaluation.noise_floor import measure_noise_floor
from oblong.evaluation.transitions import compute_mcnemar, count_transitions
from oblong.records import DocumentScore


def test_transitions_by_hand() -> None:
    before = [True, True, True, False, False, True, False]
    after = [True, False, False, True, False, False, False]
    found = count_transitions(before, after)
    assert (found.num_kept, found.num_lost, found.num_gained, found.num_missed) == (1, 3, 1, 2)
    assert found.num_items == 7
    assert found.change == pytest.approx(sum(after) / 7 - sum(before) / 7)
    assert (found.lost_share, found.gained_share) == (3 / 7, 1 / 7)
    # Of four changed items at most one in the rarer direction: 2 (1 + 4) / 16.
    assert found.p_value == 0.625


def test_mcnemar_counts_coin_tosses() -> None:
    # Every sequence of b + c fair tosses as extreme as, or more extreme than, the one seen.
    for lost, gained in [(0, 0), (1, 0), (0, 5), (2, 7), (4, 4), (3, 4)]:
        tosses = list(product((0, 1), repeat=lost + gained))
        extreme = [toss for toss in tosses if abs(2 * sum(toss) - len(toss)) >= abs(lost - gained)]
        assert compute_mcnemar(lost, gained) == pytest.approx(len(extreme) / len(tosses))


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_is_the_binomial_test(lost: int, gained: int) -> None:
    expected = stats.binomtest(lost, lost + gained, 0.5).pvalue if lost + gained else 1.0
    assert compute_mcnemar(lost, gained) == pytest.approx(expected, rel=1e-6, abs=1e-300)


def test_pairing_finds_what_two_accuracies_hide() -> None:
    # 60 % and 62 % of 1000 items: unpaired z is 0.92, p 0.36; paired, 5 lost and 25 gained, p 0.0003.
    assert compute_mcnemar(5, 25) == pytest.approx(0.00032, abs=1e-5)


@pytest.mark.parametrize(("before", "after"), [([], []), ([True], []), ([True], [True, False])])
def test_items_that_cannot_be_paired(before: list[bool], after: list[bool]) -> None:
    with pytest.raises(DataError, match="cannot pair"):
        count_transitions(before, after)


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04 raised to 0.06.
    assert adjust_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert adjust_holm([0.03]) == (0.03,)
    assert adjust_holm([0.6, 0.7]) == (1.0, 1.0)
    assert adjust_holm([]) == ()


def closed_test(p_values: list[float]) -> list[float]:
    """Holm as a closed testing procedure: Bonferroni over every subset that holds the hypothesis."""
    subsets = [[place for place, taken in enumerate(mask) if taken] for mask in product((0, 1), repeat=len(p_values))]
    return [
        max(min(1.0, len(subset) * min(p_values[member] for member in subset)) for subset in subsets if place in subset)
        for place in range(len(p_values))
    ]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    assert adjust_holm(p_values) == pytest.approx(closed_test(p_values))


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    # Five arms equal to the control that they share: p-values that depend on one another.
    generator, alarms, num_draws = np.random.default_rng(0), 0, 2000
    control = generator.normal(size=(num_draws, 1))
    z = (generator.normal(size=(num_draws, 5)) - control) / math.sqrt(2)
    for p_values in 2 * stats.norm.sf(np.abs(z)):
        alarms += min(adjust_holm(list(p_values))) < 0.05
    assert alarms / num_draws < 0.05 + 2 * math.sqrt(0.05 * 0.95 / num_draws)


def documents(losses: list[float], tokens: int = 10) -> list[DocumentScore]:
    return [DocumentScore(nll=loss, num_tokens=tokens, num_bytes=1) for loss in losses]


def test_the_noise_floor_by_hand() -> None:
    # Losses 1.0, 1.1 and 1.2 nats per token: s = 0.1; t(2) at 97.5 % is 4.3027.
    found = measure_noise_floor([documents([10.0, 10.0]), documents([10.0, 12.0]), documents([14.0, 10.0])])
    assert found.num_evaluations == 3
    assert found.deviation == pytest.approx(0.1)
    assert found.floor == pytest.approx(4.3027 * math.sqrt(2) * 0.1, rel=1e-4)
    assert found.hides(-0.6)
    assert not found.hides(0.61)


def test_a_deterministic_evaluation_has_no_noise() -> None:
    found = measure_noise_floor([documents([10.0, 11.0])] * 3)
    assert (found.floor, found.hides(0.0), found.hides(1e-9)) == (0.0, True, False)


def test_the_noise_floor_holds_what_it_says() -> None:
    generator, hidden, num_draws = np.random.default_rng(1), 0, 400
    for _ in range(num_draws):
        losses = 3 + 0.01 * generator.normal(size=7)
        floor = measure_noise_floor([documents([loss * 10]) for loss in losses[:5]])
        hidden += floor.hides(losses[5] - losses[6])
    assert abs(hidden / num_draws - 0.95) < 4 * math.sqrt(0.95 * 0.05 / num_draws)


@pytest.mark.parametrize("lists", [[], [[1.0]], [[1.0], [1.0, 2.0]], [[], []]])
def test_evaluations_without_a_noise_floor(lists: list[list[float]]) -> None:
    with pytest.raises(DataError, match="noise floor"):
        measure_noise_floor([documents(losses) for losses in lists])
