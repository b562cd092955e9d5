"""Learning against forgetting: the front of what an arm can reach, and the area under it.

A point is (gain, forgetting), both in nats per token: how far the loss fell on the new domain (higher is better), and
how far it rose on general text (lower is better). The base itself is the point (0, 0).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from oblong.errors import DataError
from oblong.records import ReferencePoint

Array = NDArray[np.float64]
Point = tuple[float, float]
"""Gain and forgetting, nats per token."""


DEFAULT_REFERENCE: Final = ReferencePoint(name="no gain, 0.1 nats per token forgotten", gain=0.0, forgetting=0.1)


def find_front(points: Iterable[Point]) -> tuple[Point, ...]:
    """The points that no other one beats: none has at least their gain with at most their forgetting.

    Args:
        points: in any order; repeated ones count once.

    Returns:
        By rising gain, and so by rising forgetting.
    """
    front: list[Point] = []
    for gain, forgetting in sorted(points, key=lambda point: (-point[0], point[1])):
        if not front or forgetting < front[-1][1]:
            front.append((gain, forgetting))
    return tuple(reversed(front))


def compute_hypervolume(points: Iterable[Point], reference: ReferencePoint = DEFAULT_REFERENCE) -> float:
    """Area between a front and its reference point: larger means more learning for less forgetting.

    sum over the front, by rising gain:  (gain_i - gain_{i-1}) * (forgetting_reference - forgetting_i)

    Args:
        points: of one arm, over all its learning rates and steps. Every arm needs as many settings, since more of
            them can only enlarge the area.
        reference: the corner.

    Returns:
        Area, (nats per token)^2; 0 where no point is better than the reference in both.

    Source: Zitzler & Thiele 1998, PPSN V (the S metric), in two dimensions.
    """
    counted = [point for point in points if point[0] > reference.gain and point[1] < reference.forgetting]
    area, reached = 0.0, reference.gain
    for gain, forgetting in find_front(counted):
        area += (gain - reached) * (reference.forgetting - forgetting)
        reached = gain
    return area


def interpolate_at_gain(gains_RP: Array, forgettings_RP: Array, gain: float) -> Array:
    """Forgetting where a curve first reaches a gain, linear between its points.

    Args:
        gains_RP: `R x P`, of R curves at P points in order of training. The base, (0, 0), is put before them.
        forgettings_RP: `R x P`, at the same points.
        gain: above 0.

    Returns:
        `R` values, NaN where a curve does not reach the gain. A curve that reaches it, falls back and reaches it
        again counts where it does so first.

    Raises:
        DataError: a gain of 0 or less, which the base has without training.
    """
    if not gain > 0:
        raise DataError(f"cannot compare at a gain of {gain}: it must be above 0, since the base has that untrained")
    start_R1 = np.zeros((len(gains_RP), 1))
    gains = np.hstack([start_R1, gains_RP])
    forgettings = np.hstack([start_R1, forgettings_RP])
    reached_RP = gains[:, 1:] >= gain
    rows, first_R = np.arange(len(gains)), reached_RP.argmax(axis=1)
    low, high = gains[rows, first_R], gains[rows, first_R + 1]
    # Where the gain is not reached, any number will do: it is replaced.
    weight_R = (gain - low) / np.where(high > low, high - low, 1.0)
    found_R = (1 - weight_R) * forgettings[rows, first_R] + weight_R * forgettings[rows, first_R + 1]
    return np.where(reached_RP.any(axis=1), found_R, np.nan)
