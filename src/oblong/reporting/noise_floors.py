"""Noise floors in tables and words: a difference that evaluating one model twice may make is not worth a claim."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Final

from oblong.records import Comparison, Interval, RetentionMeasure

NOISE_MARK: Final = "†"


def find_noise_floor(comparison: Comparison, corpora: Sequence[str], *, measure: RetentionMeasure = "loss") -> float:
    """The noise floor of some corpora's mean loss, nats per token; 0 where none was measured.

    That of a mean is at most the mean of the floors, however the corpora's noises depend on one another. It is that of
    one evaluation each; differences that are means over several seeds have less.

    Args:
        comparison: the record.
        corpora: each weighing the same.
        measure: floors are those of the loss; none is measured of the divergence from the base.
    """
    if measure != "loss":
        return 0.0
    return fmean(comparison.noise_floors.get(corpus, 0.0) for corpus in corpora)


def is_below_noise(interval: Interval | None, floor: float) -> bool:
    """Whether a difference is no larger than its noise floor; never where there is none."""
    return interval is not None and 0 < floor >= abs(interval.mean)


def mark_noise(text: str, interval: Interval | None, floor: float) -> str:
    """The text of an interval with a mark after its mean, where it is below the noise."""
    return text.replace(" [", f" {NOISE_MARK} [") if is_below_noise(interval, floor) else text


def format_floor(floor: float) -> str:
    """A noise floor, two digits: 0.00042."""
    return f"{floor:.2g}" if floor >= 1e-4 or floor == 0 else f"{floor:.0e}"


def list_noise_floors(comparison: Comparison) -> str:
    """`german 0.00042, english 0.0003`; empty where none was measured."""
    return ", ".join(f"{corpus} {format_floor(floor)}" for corpus, floor in comparison.noise_floors.items())


def explain_noise_mark(comparison: Comparison) -> str:
    """The sentence that a table's caption needs; empty where there is no floor above zero."""
    if not has_noise(comparison):
        return ""
    floors = list_noise_floors(comparison)
    return f" {NOISE_MARK}: no larger than the noise floor of its text ({floors}), so no claim is made of it."


def has_noise(comparison: Comparison) -> bool:
    """Whether noise floors were measured and evaluations of the base differed."""
    return any(floor > 0 for floor in comparison.noise_floors.values())
