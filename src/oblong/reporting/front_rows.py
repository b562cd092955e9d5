"""Retention -> the rows behind the figure of learning-forgetting fronts: plain dictionaries of JSON values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from oblong.records import ArmRetention, Retention

Row = dict[str, Any]

MARGIN: Final = 0.06  # of the frame, on every side
MAX_LOSS_OF_GAIN: Final = 0.1  # states whose loss rose by more than this share of the largest gain are not drawn


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The part of the plane that a panel shows, nats per token."""

    gain: tuple[float, float]
    forgetting: tuple[float, float]

    def holds(self, gain: float, forgetting: float) -> bool:
        """Whether a state is inside."""
        return self.gain[0] <= gain <= self.gain[1] and self.forgetting[0] <= forgetting <= self.forgetting[1]


def curve_rows(retention: Retention) -> list[Row]:
    """One row per state, and one for the base at the start of each curve: means over seeds, nats per token."""
    return [
        {"arm": arm.arm, "rate": curve.setting, "step": step, "gain": gain, "forgetting": forgetting}
        for arm in retention.arms
        for curve in arm.curves
        for step, gain, forgetting in (
            (0, 0.0, 0.0),
            *zip(curve.steps, curve.gains, curve.forgettings, strict=True),
        )
    ]


def front_rows(retention: Retention) -> list[Row]:
    """One row per state of an arm's front, by rising gain, the base first where no state beats it."""
    return [
        {"arm": arm.arm, "gain": gain, "forgetting": forgetting}
        for arm in retention.arms
        for gain, forgetting in _start_front(arm)
    ]


def _start_front(arm: ArmRetention) -> Iterator[tuple[float, float]]:
    """The front among the states and the base: states that learned nothing are beaten by the base."""
    if all(forgetting > 0 for gain, forgetting in arm.front if gain >= 0):
        yield 0.0, 0.0
    yield from ((gain, forgetting) for gain, forgetting in arm.front if gain > 0)


def find_frame(retention: Retention) -> Frame:
    """What is worth showing: all gains, and forgetting up to what the fronts show where arms are compared.

    A learning rate that is far too high would leave nothing of the others to see; its states are outside.
    """
    gains = [0.0, *(row["gain"] for row in curve_rows(retention))]
    shown = [0.0, *_shown_forgettings(retention)]
    lowest = max(min(gains), -MAX_LOSS_OF_GAIN * max(gains))
    return Frame(gain=_widen(lowest, max(gains)), forgetting=_widen(min(shown), max(shown)))


def _shown_forgettings(retention: Retention) -> Iterator[float]:
    for arm in retention.arms:
        yield from _until(arm.front, retention.gain)
        interval = arm.at_gain.forgetting if arm.at_gain else None
        if interval is not None:
            yield from (interval.low, interval.high)


def _until(front: Sequence[tuple[float, float]], gain: float | None) -> Iterator[float]:
    """Forgetting along a front to the first state that reaches the gain, or to its end."""
    for reached, forgetting in front:
        yield forgetting
        if gain is not None and reached >= gain:
            return


def _widen(low: float, high: float) -> tuple[float, float]:
    margin = MARGIN * ((high - low) or 1.0)
    return low - margin, high + margin


def count_outside(retention: Retention) -> int:
    """States that the frame leaves out."""
    frame = find_frame(retention)
    return sum(not frame.holds(row["gain"], row["forgetting"]) for row in curve_rows(retention))


def label_rows(retention: Retention, *, spacing: float) -> list[Row]:
    """One row per arm: where its front ends inside the frame, and at what height its name stands beside the frame.

    Args:
        retention: the text.
        spacing: least distance between two names, as a share of the frame's height.
    """
    frame = find_frame(retention)
    ends = {row["arm"]: row for row in front_rows(retention) if frame.holds(row["gain"], row["forgetting"])}
    ordered = sorted(ends.values(), key=lambda row: (row["forgetting"], row["gain"]))
    low, high = frame.forgetting
    heights = spread([row["forgetting"] for row in ordered], spacing * (high - low), low=low, high=high)
    return [{**row, "label": height, "edge": frame.gain[1]} for row, height in zip(ordered, heights, strict=True)]


def spread(places: Iterable[float], distance: float, *, low: float, high: float) -> list[float]:
    """Move rising places apart until neighbours have a distance, inside [low, high] as far as there is room."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + distance) if moved else max(place, low))
    ceiling = high
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - distance
    return moved
