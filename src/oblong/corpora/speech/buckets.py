"""Batches of utterances of similar length: little padding, another order in each epoch, and the same one on resuming.

Every epoch's batches are a pure function of the durations, the seed and the epoch's number. Where training stopped is
two numbers; going on from there yields the batches that would have come.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oblong.errors import DataError


@dataclass(frozen=True, slots=True, order=True)
class BatchPosition:
    """The next batch: the epoch, from 0, and the batch within it, from 0."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketRule:
    """How batches are made.

    Attributes:
        max_seconds: padded length of a batch, its longest utterance times their number; a longer utterance is alone.
        max_utterances: in a batch.
        num_buckets: groups of similar length, of equal size; more groups pad less and mix less.
    """

    max_seconds: float = 120.0
    max_utterances: int = 32
    num_buckets: int = 8


def plan_epoch(durations: Sequence[float], rule: BucketRule, *, seed: int, epoch: int) -> list[tuple[int, ...]]:
    """The batches of one epoch, as indices into `durations`; every index occurs exactly once.

    Args:
        durations: seconds, all positive.
        rule: how batches are made.
        seed: of the order.
        epoch: from 0.

    Raises:
        DataError: no utterances, or a duration that is not positive.
    """
    _require_durations(durations)
    rng = random.Random(f"{seed}:{epoch}")
    ranked = sorted(range(len(durations)), key=lambda index: (durations[index], index))
    size = -(-len(ranked) // max(1, rule.num_buckets))
    batches: list[tuple[int, ...]] = []
    for start in range(0, len(ranked), size):
        bucket = ranked[start : start + size]
        rng.shuffle(bucket)
        batches += _cut(bucket, durations, rule)
    rng.shuffle(batches)
    return batches


def iter_batches(
    durations: Sequence[float], rule: BucketRule, *, seed: int, start: BatchPosition | None = None
) -> Iterator[tuple[BatchPosition, tuple[int, ...]]]:
    """Batches without end, from `start` on, each with its position.

    Raises:
        DataError: as for `plan_epoch`.
    """
    position = start or BatchPosition()
    while True:
        batches = plan_epoch(durations, rule, seed=seed, epoch=position.epoch)
        for number in range(position.batch, len(batches)):
            yield BatchPosition(position.epoch, number), batches[number]
        position = BatchPosition(position.epoch + 1)


def compute_padding_share(durations: Sequence[float], batches: Sequence[Sequence[int]]) -> float:
    """The share of the padded seconds that is padding, from 0."""
    padded = sum(max(durations[index] for index in batch) * len(batch) for batch in batches)
    spoken = sum(durations[index] for batch in batches for index in batch)
    return 1 - spoken / padded


def _cut(bucket: Sequence[int], durations: Sequence[float], rule: BucketRule) -> list[tuple[int, ...]]:
    batches: list[tuple[int, ...]] = []
    current: list[int] = []
    for index in bucket:
        longest = max(durations[member] for member in (*current, index))
        full = len(current) >= rule.max_utterances or longest * (len(current) + 1) > rule.max_seconds
        if current and full:
            batches.append(tuple(current))
            current = []
        current.append(index)
    return [*batches, tuple(current)]


def _require_durations(durations: Sequence[float]) -> None:
    if not durations:
        raise DataError("there are no utterances to make batches of")
    if wrong := [index for index, seconds in enumerate(durations) if not seconds > 0]:
        raise DataError(f"utterance {wrong[0]} has a duration of {durations[wrong[0]]} s; measure durations first")
