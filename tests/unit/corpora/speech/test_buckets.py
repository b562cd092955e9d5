"""Length buckets: every utterance once an epoch, within the limits, reproducible and resumable."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oblong.corpora.speech import BatchPosition, BucketRule, compute_padding_share, iter_batches, plan_epoch
from oblong.errors import DataError

RNG = random.Random(0)
DURATIONS = [RNG.uniform(0.5, 20) for _ in range(500)]
RULE = BucketRule(max_seconds=60, max_utterances=16)


@settings(max_examples=60, deadline=None)
@given(
    durations=st.lists(st.floats(0.01, 100), min_size=1, max_size=80),
    max_seconds=st.floats(1, 60),
    max_utterances=st.integers(1, 9),
    num_buckets=st.integers(1, 12),
    epoch=st.integers(0, 3),
)
def test_every_utterance_once_within_the_limits(
    durations: list[float], max_seconds: float, max_utterances: int, num_buckets: int, epoch: int
) -> None:
    rule = BucketRule(max_seconds=max_seconds, max_utterances=max_utterances, num_buckets=num_buckets)
    batches = plan_epoch(durations, rule, seed=1, epoch=epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(durations)))
    for batch in batches:
        assert 1 <= len(batch) <= max_utterances
        assert len(batch) == 1 or max(durations[index] for index in batch) * len(batch) <= max_seconds
    assert batches == plan_epoch(durations, rule, seed=1, epoch=epoch)


def test_another_epoch_and_another_seed_have_another_order() -> None:
    plans = [plan_epoch(DURATIONS, RULE, seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert plans[0] != plans[1] != plans[2] != plans[0]


def test_batches_are_not_in_the_order_of_length() -> None:
    longest = [max(DURATIONS[index] for index in batch) for batch in plan_epoch(DURATIONS, RULE, seed=0, epoch=0)]
    assert longest != sorted(longest)


def test_going_on_yields_what_would_have_come() -> None:
    whole = list(islice(iter_batches(DURATIONS, RULE, seed=3), 300))
    position = whole[120][0]
    assert list(islice(iter_batches(DURATIONS, RULE, seed=3, start=position), 180)) == whole[120:]
    assert whole[0][0] == BatchPosition(0, 0)
    assert {position.epoch for position, _ in whole} >= {0, 1}


def test_a_position_past_the_end_goes_on_with_the_next_epoch() -> None:
    position, _ = next(iter_batches(DURATIONS, RULE, seed=3, start=BatchPosition(2, 10_000)))
    assert position == BatchPosition(3, 0)


def test_buckets_pad_less() -> None:
    bucketed, mixed = (
        plan_epoch(DURATIONS, BucketRule(max_seconds=60, num_buckets=count), seed=0, epoch=0) for count in (8, 1)
    )
    assert compute_padding_share(DURATIONS, bucketed) < 0.12 < 0.3 < compute_padding_share(DURATIONS, mixed)


def test_padding_share_by_hand() -> None:
    # (2 + 2) + 3 padded seconds, of which 1 + 2 + 3 are spoken
    assert compute_padding_share([1, 2, 3], [(0, 1), (2,)]) == pytest.approx(1 / 7)


@pytest.mark.parametrize("durations", [[], [1.0, 0.0], [float("nan")]])
def test_durations_must_be_known(durations: list[float]) -> None:
    with pytest.raises(DataError, match=r"no utterances|has a duration of"):
        plan_epoch(durations, RULE, seed=0, epoch=0)
