from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from oblong.errors import DataError
from oblong.evaluation.statistics import bootstrap_difference, bootstrap_loss
from oblong.records import DocumentScore
from tests.tolerances import INTERVAL_AGAINST_FORMULA, INTERVAL_ARITHMETIC


def scores(nll: Sequence[float], tokens: Sequence[int] | int = 10) -> list[DocumentScore]:
    numbers = [tokens] * len(nll) if isinstance(tokens, int) else tokens
    return [
        DocumentScore(nll=value, num_tokens=number, num_bytes=1) for value, number in zip(nll, numbers, strict=True)
    ]


def test_the_difference_is_the_ratio_of_totals() -> None:
    # (30 + 5 - 20 - 4) / (10 + 90) = 0.11; the mean of the documents' own ratios would be (1 + 1/90) / 2 = 0.506.
    interval = bootstrap_difference([scores([30, 5], [10, 90])], scores([20, 4], [10, 90]))
    assert interval.mean == pytest.approx(0.11, rel=INTERVAL_ARITHMETIC)


def test_the_interval_of_equal_documents_is_students() -> None:
    # Equal lengths make the ratio a mean, so the interval is the textbook one: t(n - 1) * s / sqrt(n) / tokens.
    changes = [1.0, 4.0, 2.0, 8.0, 5.0, 7.0]
    interval = bootstrap_difference([scores([50 + change for change in changes])], scores([50.0] * 6))
    margin = float(stats.t.ppf(0.975, 5)) * float(np.std(changes, ddof=1)) / math.sqrt(6) / 10
    assert interval.mean == pytest.approx(4.5 / 10, rel=INTERVAL_ARITHMETIC)
    assert (interval.high - interval.low) / 2 == pytest.approx(margin, rel=INTERVAL_AGAINST_FORMULA)
    assert interval.high - interval.mean == pytest.approx(interval.mean - interval.low, rel=INTERVAL_ARITHMETIC)


def test_a_change_that_is_the_same_everywhere_has_no_width() -> None:
    interval = bootstrap_difference(
        [scores([11.0, 22.0, 33.0], [10, 20, 30])], scores([10.0, 20.0, 30.0], [10, 20, 30])
    )
    assert interval.mean == pytest.approx(0.1)
    assert interval.high - interval.low < INTERVAL_ARITHMETIC
    same = bootstrap_difference([scores([1.0, 2.0])], scores([1.0, 2.0]))
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    assert not same.excludes_zero


def test_pairing_removes_what_documents_have_in_common() -> None:
    generator = np.random.default_rng(0)
    before = generator.uniform(20, 60, 40)
    paired = bootstrap_difference([scores(list(before + 1))], scores(list(before)))
    unpaired = bootstrap_loss(scores(list(before + 1)))
    assert paired.high - paired.low < 1e-6 < unpaired.high - unpaired.low


def test_seeds_of_one_base_are_averaged() -> None:
    after = [scores([12.0, 14.0]), scores([16.0, 14.0])]
    interval = bootstrap_difference(after, scores([10.0, 10.0]))
    # Differences of the seeds: 6 / 20 and 10 / 20.
    assert interval.mean == pytest.approx(0.4, rel=INTERVAL_ARITHMETIC)


def test_arms_are_paired_seed_by_seed() -> None:
    generator = np.random.default_rng(1)
    by_seed = [generator.uniform(20, 60, 12) for _ in range(3)]
    control = [scores(list(nll)) for nll in by_seed]
    arm = [scores(list(nll + 0.5)) for nll in by_seed]
    interval = bootstrap_difference(arm, control)
    assert interval.mean == pytest.approx(0.05)
    assert interval.high - interval.low < INTERVAL_ARITHMETIC


def test_three_seeds_widen_the_interval_by_their_spread_and_two_do_not() -> None:
    # Every document of seed s changes by the same amount, so only seeds vary: 1, 2 and 6 nats per 10 tokens.
    base = scores([50.0] * 8)
    runs = [scores([50.0 + change] * 8) for change in (1.0, 2.0, 6.0)]
    three = bootstrap_difference(runs, base)
    margin = float(stats.t.ppf(0.975, 2)) * float(np.std([1, 2, 6], ddof=1)) / math.sqrt(3) / 10
    assert (three.high - three.low) / 2 == pytest.approx(margin, rel=INTERVAL_ARITHMETIC)
    two = bootstrap_difference(runs[:2], base)
    assert two.high - two.low == 0


def test_the_same_seed_gives_the_same_interval() -> None:
    after, before = scores([3.0, 9.0, 4.0, 7.0]), scores([2.0, 3.0, 4.0, 5.0])
    first = bootstrap_difference([after], before, seed=5)
    assert first == bootstrap_difference([after], before, seed=5)
    assert first != bootstrap_difference([after], before, seed=6)
    assert first.num_resamples == 10_000


def test_more_confidence_is_wider() -> None:
    after, before = scores([3.0, 9.0, 4.0, 7.0]), scores([2.0, 3.0, 4.0, 5.0])
    narrow, wide = (bootstrap_difference([after], before, confidence=level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert wide.confidence == 0.99


def test_resampling_in_blocks_covers_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap_loss(scores([3.0, 9.0, 4.0, 7.0]), num_resamples=1000)
    monkeypatch.setattr("oblong.evaluation.statistics.BLOCK_ELEMENTS", 28)  # blocks of 7, the last one short
    assert bootstrap_loss(scores([3.0, 9.0, 4.0, 7.0]), num_resamples=1000) == whole


@pytest.mark.parametrize(("num_seeds", "by_document", "by_seed"), [(1, 0.02, 0.0), (3, 0.02, 0.01), (3, 0.004, 0.02)])
def test_ninety_five_percent_intervals_hold_the_truth_as_often_as_they_say(
    num_seeds: int, by_document: float, by_seed: float
) -> None:
    generator = np.random.default_rng(3)
    draws, num_documents, truth, hits = 400, 25, 0.03, 0
    for _ in range(draws):
        tokens = generator.integers(100, 600, num_documents)
        before = 3.0 * tokens
        shared = by_document * generator.normal(size=num_documents)
        after = [before + (truth + shared + by_seed * generator.normal()) * tokens for _ in range(num_seeds)]
        interval = bootstrap_difference(
            [scores(list(nll), list(tokens)) for nll in after], scores(list(before), list(tokens)), num_resamples=300
        )
        hits += interval.low <= truth <= interval.high
    # Standard error of a proportion near 0.95 over 400 draws: 0.011; the bound is four of them.
    assert abs(hits / draws - 0.95) < 0.044


def test_one_document_has_no_interval() -> None:
    with pytest.raises(DataError, match="at least two documents"):
        bootstrap_loss(scores([3.0]))


@pytest.mark.parametrize(
    ("after", "before", "message"),
    [
        ([scores([1.0, 2.0])], scores([1.0, 2.0, 3.0]), "2 and of 3 documents"),
        ([scores([1.0, 2.0])], scores([1.0, 2.0], [10, 11]), "document 2: it has 10 tokens .* and 11"),
        ([scores([1.0, 2.0])] * 2, [scores([1.0, 2.0])] * 3, "2 runs with 3"),
        ([], scores([1.0, 2.0]), "0 runs with 0"),
        ([scores([1.0, 2.0])], [], "2 and of 0 documents"),
    ],
)
def test_what_cannot_be_paired_is_refused(
    after: list[list[DocumentScore]], before: list[DocumentScore], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        bootstrap_difference(after, before)


def test_the_p_value_is_students_and_agrees_with_the_interval() -> None:
    changes = [1.0, 4.0, -2.0, 8.0, -5.0, 7.0]
    interval = bootstrap_difference([scores([50 + change for change in changes])], scores([50.0] * 6))
    expected = stats.ttest_1samp(changes, 0).pvalue
    assert interval.p_value is not None
    assert interval.p_value == pytest.approx(expected, rel=INTERVAL_AGAINST_FORMULA)
    at_the_edge = bootstrap_difference(
        [scores([50 + change for change in changes])], scores([50.0] * 6), confidence=1 - interval.p_value
    )
    assert min(abs(at_the_edge.low), abs(at_the_edge.high)) < 1e-9
    same = bootstrap_difference([scores([1.0, 2.0])], scores([1.0, 2.0]))
    assert same.p_value == 1.0
    assert bootstrap_loss(scores([1.0, 2.0])).p_value is None
