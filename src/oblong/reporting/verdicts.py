"""What the intervals of a Comparison decide: the direction of each change, and an arm's verdict against the control.

The rules are few and the same for every arm. An interval below zero is a decrease of loss, one above zero an increase,
and one that holds zero is *undecided*, which is never called equal; what excludes zero and is no larger than the noise
floor is *below the noise*, of which no claim is made. Against the control there are as many questions as arms; where
the record has p-values adjusted for that, they decide. Two arms that start from the same base differ in
what they learned or kept exactly as their final losses differ, so only those differences are put into words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from oblong.records import AtGain, Change, Comparison, Interval
from oblong.reporting.noise_floors import find_noise_floor, is_below_noise

UNTOLD: Final = "no difference can be told"
ALL_NOISE: Final = "no difference that can be told exceeds the noise floor"


class Direction(StrEnum):
    """What an interval says about a loss."""

    LOWER = "lower"
    HIGHER = "higher"
    UNDECIDED = "undecided"
    BELOW_NOISE = "below noise"

    @classmethod
    def of(cls, interval: Interval, floor: float = 0.0) -> Direction:
        """Read one interval, above a noise floor in the same unit."""
        return cls.of_significant(interval, floor) if interval.excludes_zero else cls.UNDECIDED

    @classmethod
    def of_significant(cls, interval: Interval, floor: float) -> Direction:
        """Read a difference that is significant, by whatever test."""
        if is_below_noise(interval, floor):
            return cls.BELOW_NOISE
        return cls.LOWER if interval.mean < 0 else cls.HIGHER

    @property
    def is_decided(self) -> bool:
        """Whether a claim may be made of it."""
        return self in (Direction.LOWER, Direction.HIGHER)


def decide(comparison: Comparison, change: Change) -> Direction:
    """Read an arm's difference to the control: decided only if it is significant after the correction for all arms."""
    gap = change.against_control
    if gap is None or not is_significant(change):
        return Direction.UNDECIDED
    return Direction.of(gap, find_noise_floor(comparison, [change.corpus]))


def decide_from_base(comparison: Comparison, change: Change) -> Direction:
    """Read an arm's difference to the base."""
    return Direction.of(change.difference, find_noise_floor(comparison, [change.corpus]))


def is_significant(change: Change) -> bool:
    """Whether the difference to the control stands: by the adjusted p-value, in older records by the interval."""
    gap = change.against_control
    if gap is None or change.adjusted_p_value is None:
        return gap is not None and gap.excludes_zero
    return change.adjusted_p_value < 1 - gap.confidence


def decide_at_gain(difference: AtGain, floor: float) -> Direction:
    """Read an arm's forgetting minus the control's at one gain: decided only if significant after the correction.

    Args:
        difference: as recorded.
        floor: the noise floor of the texts, nats per token.
    """
    gap, p_value = difference.forgetting, difference.adjusted_p_value
    if gap is None or (p_value is not None and p_value >= 1 - gap.confidence):
        return Direction.UNDECIDED
    return Direction.of(gap, floor) if p_value is None else Direction.of_significant(gap, floor)


def verdict(comparison: Comparison, arm: str) -> str:
    """What an arm's differences to the control amount to, in a clause.

    Lower losses somewhere and higher losses elsewhere are called a trade-off, whichever way round: neither arm wins.
    """
    learned = _differences(comparison, arm, new_domain=True)
    kept = _differences(comparison, arm, new_domain=False)
    decided = {found for found in (*learned.values(), *kept.values()) if found.is_decided}
    if not decided:
        return (
            ALL_NOISE
            if Direction.BELOW_NOISE in (*learned.values(), *kept.values())
            else f"{UNTOLD} from these intervals"
        )
    conjunction = " but " if len(decided) > 1 else " and "
    trade_off = " (a trade-off, which by itself ranks neither arm)" if len(decided) > 1 else ""
    told = conjunction.join((*_clauses("learned", learned), *_clauses("kept", kept)))
    return told + trade_off + _describe_rest(learned | kept)


def _describe_rest(directions: Mapping[str, Direction]) -> str:
    """`, while on b no difference can be told and on c it is below the noise floor`."""
    words = {Direction.UNDECIDED: UNTOLD, Direction.BELOW_NOISE: "the difference is below the noise floor"}
    places = {words[kind]: [corpus for corpus, found in directions.items() if found is kind] for kind in words}
    clauses = [f"on {join_names(corpora)} {what}" for what, corpora in places.items() if corpora]
    return f", while {' and '.join(clauses)}" if clauses else ""


def _clauses(verb: str, directions: Mapping[str, Direction]) -> list[str]:
    adverbs = {Direction.LOWER: "better", Direction.HIGHER: "worse"}
    grouped = {
        adverb: [corpus for corpus, found in directions.items() if found is direction]
        for direction, adverb in adverbs.items()
    }
    return [f"{verb} {join_names(corpora)} {adverb}" for adverb, corpora in grouped.items() if corpora]


def _differences(comparison: Comparison, arm: str, *, new_domain: bool) -> dict[str, Direction]:
    return {
        change.corpus: decide(comparison, change)
        for change, _ in gaps_of(comparison, arm)
        if comparison.base.corpora[change.corpus].new_domain is new_domain
    }


def new_domains(comparison: Comparison) -> tuple[str, ...]:
    """Names of the corpora that were to be learned."""
    return _corpora(comparison, new_domain=True)


def general_corpora(comparison: Comparison) -> tuple[str, ...]:
    """Names of the corpora that were to be kept."""
    return _corpora(comparison, new_domain=False)


def _corpora(comparison: Comparison, *, new_domain: bool) -> tuple[str, ...]:
    evaluated = {change.corpus for change in comparison.changes}
    return tuple(
        name for name, score in comparison.base.corpora.items() if score.new_domain is new_domain and name in evaluated
    )


def changes_on(comparison: Comparison, corpus: str) -> tuple[Change, ...]:
    """The arms' changes on one corpus, in recipe order."""
    changes = [change for change in comparison.changes if change.corpus == corpus]
    return tuple(sorted(changes, key=lambda change: comparison.arms.index(change.arm)))


def rivals(comparison: Comparison) -> tuple[str, ...]:
    """Every arm but the control."""
    return tuple(arm for arm in comparison.arms if arm != comparison.control)


def gaps_of(comparison: Comparison, arm: str) -> tuple[tuple[Change, Interval], ...]:
    """An arm's changes that are compared with the control, new domains first, each with its difference."""
    return tuple(
        (change, change.against_control)
        for corpus in (*new_domains(comparison), *general_corpora(comparison))
        for change in changes_on(comparison, corpus)
        if change.arm == arm and change.against_control is not None
    )


def join_names(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *front, last = list(names)
    return f"{', '.join(front)} and {last}" if front else last
