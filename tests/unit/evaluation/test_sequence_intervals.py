"""Intervals of the measures of a sequence: the estimates by hand, and the linear ones against the paired bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest

from oblong.errors import DataError
from oblong.evaluation.sequence_intervals import MEASURES, PerState, measure_sequences
from oblong.evaluation.statistics import bootstrap_difference
from oblong.evaluation.task_sequences import summarise_sequence
from oblong.records import DocumentScore

NUM_TASKS = 3


def make_scores(generator: np.random.Generator, mean: float, num_documents: int = 12) -> list[DocumentScore]:
    return [
        DocumentScore(nll=max(0.0, float(loss)) * (40 + place), num_tokens=40 + place, num_bytes=100)
        for place, loss in enumerate(generator.normal(mean, 0.2, num_documents))
    ]


def make_states(seed: int, shift: float = 0.0) -> PerState:
    generator = np.random.default_rng(seed)
    return [[make_scores(generator, 3 - 0.1 * i + shift) for _ in range(NUM_TASKS)] for i in range(NUM_TASKS)]


def shift_all(states: PerState, shift: float) -> PerState:
    return [
        [[d.model_copy(update={"nll": d.nll + shift * d.num_tokens}) for d in text] for text in row] for row in states
    ]


BASE = [make_scores(np.random.default_rng(99 + task), 3.2) for task in range(NUM_TASKS)]


def loss(documents: list[DocumentScore]) -> float:
    return sum(d.nll for d in documents) / sum(d.num_tokens for d in documents)


def test_estimates_are_the_means_over_seeds_of_the_measures() -> None:
    seeds = [make_states(seed) for seed in range(3)]
    found = measure_sequences({"only": seeds}, BASE, control="")["only"]
    summaries = [
        summarise_sequence(
            [[loss(list(BASE[j])) - loss(list(row[j])) for j in range(NUM_TASKS)] for row in states], [0.0] * NUM_TASKS
        )
        for states in seeds
    ]
    for name in MEASURES:
        expected = np.mean([getattr(summary, name) for summary in summaries])
        measure = getattr(found, name)
        assert measure.value.mean == pytest.approx(expected, abs=1e-12)
        assert measure.value.low < expected < measure.value.high
        assert measure.against_control is None


def test_backward_transfer_of_two_tasks_has_the_interval_of_a_paired_difference() -> None:
    """It is the loss after the first task minus that after the second: the same bootstrap, two ways."""
    states = [row[:2] for row in make_states(1)[:2]]
    found = measure_sequences({"only": [states]}, BASE[:2], control="", num_resamples=20_000)["only"]
    expected = bootstrap_difference([states[0][0]], states[1][0])
    assert found.backward_transfer.value.mean == pytest.approx(expected.mean)
    assert found.backward_transfer.value.low == pytest.approx(expected.low, abs=0.03 * (expected.high - expected.low))
    assert found.backward_transfer.value.high == pytest.approx(expected.high, abs=0.03 * (expected.high - expected.low))
    assert found.backward_transfer.value.p_value == pytest.approx(expected.p_value, abs=0.02)


def test_a_difference_to_the_control_is_paired_and_adjusted() -> None:
    """Every document a little worse by the same amount: the difference is certain though the values are not."""
    control = [make_states(seed) for seed in range(2)]
    worse = [shift_all(states, 0.1) for states in control]
    arms = {"control": control, "worse": worse, "same": control}
    found = measure_sequences(arms, BASE, control="control")
    gap = found["worse"].average.against_control
    assert gap is not None
    assert [gap.mean, gap.low, gap.high] == pytest.approx([-0.1] * 3)
    assert found["worse"].average.adjusted_p_value == pytest.approx(0, abs=1e-6)
    assert found["same"].average.adjusted_p_value == 1
    assert found["control"].average.against_control is None
    assert found["worse"].average.value.high - found["worse"].average.value.low > 0.01


def test_from_three_seeds_on_their_spread_widens_the_interval() -> None:
    same = [make_states(0)] * 3
    apart = [shift_all(same[0], shift) for shift in (-0.2, 0.0, 0.2)]
    narrow, wide = (measure_sequences({"a": seeds}, BASE, control="")["a"].average.value for seeds in (same, apart))
    assert narrow.mean == pytest.approx(wide.mean)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    two = measure_sequences({"a": [apart[0], apart[2]]}, BASE, control="")["a"].average.value
    assert two.high - two.low == pytest.approx(narrow.high - narrow.low)


def test_forgetting_takes_its_maximum_in_every_resample() -> None:
    """Two states that are equal but for noise: the maximum of the two is above either, in the interval too."""
    found = measure_sequences({"a": [make_states(3)]}, BASE, control="")["a"]
    assert found.forgetting.value.mean >= -found.backward_transfer.value.mean
    assert math.isfinite(found.forgetting.value.low)


@pytest.mark.parametrize(
    ("states", "base", "message"),
    [
        ([[row[:1] for row in make_states(0)]], [BASE[0][:3]], "cannot pair"),
        (
            [[[text[:1] for text in row] for row in make_states(0)]],
            [text[:1] for text in BASE],
            "at least two",
        ),
    ],
)
def test_what_cannot_be_paired_or_resampled_is_refused(
    states: list[PerState], base: list[list[DocumentScore]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        measure_sequences({"a": states}, base, control="")
