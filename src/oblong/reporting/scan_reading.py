"""A Scan put into plain language: what was measured, what the shapes explain, what the storage hides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Final

from oblong.records import Measures, Scan, Unit
from oblong.records.scan import summarise_roles
from oblong.reporting.formats import format_kappa, format_parameters

MOSTLY: Final = 0.5


def read_scan(scan: Scan) -> tuple[str, ...]:
    """A few sentences on a Scan, each only when the Scan supports it."""
    measured = [(unit, unit.measures) for unit in scan.eligible if unit.measures is not None]
    texts = (
        _describe_size(scan),
        _describe_range(measured),
        _describe_shapes(measured),
        _describe_excess(measured),
        _describe_unresolved(measured),
    )
    return tuple(text for text in texts if text)


def _describe_size(scan: Scan) -> str:
    info = scan.header.checkpoint
    return (
        f"{scan.header.model} holds {info.num_tensors} tensors with {format_parameters(info.num_parameters)} "
        f"parameters. Of {len(scan)} rows {len(scan.measured)} have a measured spectrum and {len(scan.eligible)} are "
        "eligible for training by default."
    )


def _describe_range(measured: Sequence[tuple[Unit, Measures]]) -> str:
    if len(measured) < 2:
        return ""
    roundest = min(measured, key=lambda pair: pair[1].kappa)
    most_oblong = max(measured, key=lambda pair: pair[1].kappa)
    doubt = "" if most_oblong[1].resolved else ", not resolved by its storage"
    return (
        f"Among the eligible, kappa runs from {format_kappa(roundest[1].kappa)} ({roundest[0].name}) to "
        f"{format_kappa(most_oblong[1].kappa)} ({most_oblong[0].name}{doubt})."
    )


def _describe_shapes(measured: Sequence[tuple[Unit, Measures]]) -> str:
    share = shape_share(measured)
    if share is None:
        return ""
    advice = " Across shapes, ranking by kappa mostly ranks shapes." if share > MOSTLY else ""
    return f"The shape of a matrix alone accounts for {100 * share:.0f} % of the variance of ln kappa.{advice}"


def shape_share(measured: Sequence[tuple[Unit, Measures]]) -> float | None:
    """Between-shape share of the variance of ln kappa, 0 to 1; null with fewer than two shapes or no variance."""
    groups: dict[tuple[int, ...], list[float]] = {}
    for unit, measures in measured:
        groups.setdefault(tuple(sorted(unit.matrix_shape or unit.shape)), []).append(math.log(measures.kappa))
    values = [value for group in groups.values() for value in group]
    if len(groups) < 2 or len(values) <= len(groups):
        return None
    grand = fmean(values)
    total = sum((value - grand) ** 2 for value in values)
    between = sum(len(group) * (fmean(group) - grand) ** 2 for group in groups.values())
    return between / total if total > 0 else None


def _describe_excess(measured: Sequence[tuple[Unit, Measures]]) -> str:
    if not measured:
        return ""
    rounder = sum(measures.kappa_excess < 0 for _, measures in measured)
    by_role = {
        role: fmean(unit.measures.kappa_excess for unit in units if unit.measures)
        for role, units in summarise_roles([unit for unit, _ in measured]).items()
    }
    highest = max(by_role, key=lambda role: by_role[role])
    return (
        f"{rounder} of {len(measured)} are rounder than the median random matrix of their shape; the mean excess is "
        f"largest for {highest} ({by_role[highest]:+.2f})."
    )


def _describe_unresolved(measured: Sequence[tuple[Unit, Measures]]) -> str:
    count = sum(not measures.resolved for _, measures in measured)
    if not count:
        return ""
    return (
        f"For {count} of {len(measured)} the smallest singular value lies below the rounding error of the storage "
        "format: their kappa is known only as an interval."
    )
