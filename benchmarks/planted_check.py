"""Holds a Scan to the truth of the matrices that were planted in its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmarks.planted import Truth
from oblong.records import Scan, Unit

TRUTH_ERROR = 1e-12
"""The truth is from float64 singular values of small factors: relative error about their kappa times 1e-15."""


def list_errors(scan: Scan, truth: Mapping[str, Truth]) -> list[str]:
    """What the Scan left out, or got wrong by more than it states, of what was planted."""
    units = {unit.name: unit for unit in scan}
    return [error for name, true in truth.items() for error in _check(name, units.get(name), true)]


def _check(name: str, unit: Unit | None, true: Truth) -> Iterable[str]:
    if unit is None or unit.measures is None:
        yield f"{name}: {'not in the Scan' if unit is None else f'not measured, {unit.status}'}"
        return
    measures = unit.measures
    kappa_error = abs(measures.kappa - true.kappa) / true.kappa
    if kappa_error > measures.kappa_error + TRUTH_ERROR:
        yield f"{name}: kappa off by {kappa_error:.2e}, beyond the stated {measures.kappa_error:.2e}"
    volume_error = abs(measures.log_volume - true.log_volume)
    stated = (measures.log_volume_error or 0.0) + TRUTH_ERROR * max(1.0, abs(true.log_volume))
    if volume_error > stated:
        yield f"{name}: log-volume off by {volume_error:.2e}, beyond the stated {stated:.2e}"


def find_largest_error(scan: Scan, truth: Mapping[str, Truth]) -> float:
    """The largest relative error of kappa."""
    measured = ((unit.measures, truth[unit.name]) for unit in scan if unit.measures and unit.name in truth)
    return max((abs(measures.kappa - true.kappa) / true.kappa for measures, true in measured), default=0.0)
