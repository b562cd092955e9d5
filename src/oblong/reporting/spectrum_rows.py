"""Singular values as rows: quantiles, a histogram against what chance would give, and the curves of some tensors."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from oblong.records import Plan, Scan

NUM_BINS: Final = 20
SHARES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# A few outliers must not squeeze the bulk into one bin: they get a bin of their own.
SHARE_OF_OUTLIERS: Final = 0.02
# Some 30 kB of page per plan.
TENSORS_PER_PLAN: Final = 6
POINTS_PER_TENSOR: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileRow:
    """The singular value that `share` of them reach, and s_1 over it (at share 1: kappa)."""

    share: float
    value: float
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BinRow:
    """How many singular values lie in [low, high), and how many those of a Gaussian matrix would; `high` may be inf."""

    low: float
    high: float
    count: int
    expected: float


def list_quantiles(values: Sequence[float]) -> tuple[QuantileRow, ...]:
    """The ends and what lies between them.

    Args:
        values: shape (r,), descending, positive: the non-zero ones.
    """
    places = (0, *(math.ceil(share * len(values)) - 1 for share in SHARES), len(values) - 1)
    return tuple(
        QuantileRow(share=share, value=values[place], ratio=values[0] / values[place])
        for share, place in zip((0.0, *SHARES, 1.0), places, strict=True)
    )


def list_bins(values: Sequence[float], shape: tuple[int, int], *, num_bins: int = NUM_BINS) -> tuple[BinRow, ...]:
    """A histogram from zero to the end of the bulk or of the null, whichever is higher, and one bin of all above.

    Args:
        values: shape (min(m, n),), descending, the largest positive.
        shape: (m, n).
        num_bins: of equal width.

    The null has the same shape and Frobenius norm, so its unit is the root mean square of the values.
    """
    rms = math.hypot(*values) / math.sqrt(len(values))
    ratio = min(shape) / max(shape)
    bulk = values[math.ceil(SHARE_OF_OUTLIERS * len(values)) - 1]
    top = max(rms * (1.0 + math.sqrt(ratio)), bulk) * (1.0 + 1e-9)
    edges = [*(top * index / num_bins for index in range(num_bins + 1)), math.inf]
    ascending = values[::-1]
    below = [bisect_left(ascending, edge) for edge in edges]
    rows = (
        BinRow(
            low=edges[index],
            high=edges[index + 1],
            count=below[index + 1] - below[index],
            expected=len(values) * compute_null_share(edges[index] / rms, edges[index + 1] / rms, ratio),
        )
        for index in range(num_bins + 1)
    )
    return tuple(row for row in rows if math.isfinite(row.high) or row.count)


def compute_null_share(low: float, high: float, ratio: float) -> float:
    """Share of the singular values of a large Gaussian matrix between `low` and `high`.

    With b = min / max of the shape and s^2 = 1 + b + 2 sqrt(b) cos t, the density is 2/pi sin(t)^2 / s^2 over t in
    [0, pi], which has an elementary integral.

    Args:
        low: lower end, in units of the root mean square of the singular values.
        high: upper end; may be infinite.
        ratio: b, in (0, 1].

    Source: Marchenko and Pastur 1967.
    """
    share = _integrate_null(_find_angle(low, ratio), ratio) - _integrate_null(_find_angle(high, ratio), ratio)
    return max(share, 0.0)  # not the rounding below zero


def _find_angle(value: float, ratio: float) -> float:
    if math.isinf(value):
        return 0.0
    cosine = (value * value - 1.0 - ratio) / (2.0 * math.sqrt(ratio))
    return math.acos(min(max(cosine, -1.0), 1.0))


def _integrate_null(angle: float, ratio: float) -> float:
    """The share above the singular value that belongs to an angle."""
    root = math.sqrt(ratio)
    bend = math.atan((1.0 - root) / (1.0 + root) * math.tan(angle / 2.0))
    area = (1.0 + ratio) * angle - 2.0 * root * math.sin(angle) - 2.0 * (1.0 - ratio) * bend
    return area / (2.0 * math.pi * ratio)


def list_curves(scan: Scan, plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """Points of the spectra of some tensors of every plan that follows a criterion: s_i / rms(s) against i / r.

    The tensors are spread evenly over a plan, which is sorted by its criterion; fused ones, whose parts have spectra of
    their own, are left out, and so are random plans and those of adapters, which follow none.
    """
    return [
        {"arm": plan.name, "name": name, **point}
        for plan in plans
        if plan.rule.criterion not in ("random", "adapter")
        for name in spread([t.name for t in plan.tensors if _has_values(scan, t.name)], TENSORS_PER_PLAN)
        for point in _list_points(scan, name)
    ]


def spread(items: Sequence[str], number: int) -> tuple[str, ...]:
    """At most so many of some items, evenly spaced, the ends included."""
    if len(items) <= number:
        return tuple(items)
    return tuple(items[round(index * (len(items) - 1) / (number - 1))] for index in range(number))


def _has_values(scan: Scan, name: str) -> bool:
    return name in scan and scan.by_name[name].spectrum_digest is not None


def _list_points(scan: Scan, name: str) -> list[dict[str, Any]]:
    measures = scan.by_name[name].measures
    rank = measures.rank if measures is not None else 0
    values: list[float] = scan.singular_values(name)[:rank].tolist()
    rms = math.hypot(*values) / math.sqrt(rank)
    return [
        {"share": round((place + 1) / rank, 5), "value": float(f"{values[place] / rms:.5g}")}
        for place in choose_places(rank)
    ]


def choose_places(number: int) -> list[int]:
    """Which of so many values are drawn: evenly spaced ones, and at both ends, where most happens, closer ones."""
    even = {round(index * (number - 1) / (POINTS_PER_TENSOR - 1)) for index in range(POINTS_PER_TENSOR)}
    from_the_end = {2**power - 1 for power in range(number.bit_length()) if 2**power <= number / POINTS_PER_TENSOR}
    return sorted(even | from_the_end | {number - 1 - place for place in from_the_end})
