"""Records -> the rows behind each figure: plain dictionaries of JSON values, without any drawing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any, Final

from oblong.records import Change, Comparison, Measures, Plan, Scan, Unit
from oblong.reporting.arms import iter_history, runs_of
from oblong.reporting.verdicts import changes_on, general_corpora, new_domains

Row = dict[str, Any]

BLOCK_ORDER: Final = ("q", "k", "v", "o", "gate", "up", "down")
DODGE: Final = 0.17  # between columns, in ln(null kappa): two marks wide on the scale of an LLM


def laid_out_units(scan: Scan) -> tuple[Unit, ...]:
    """The measured units that stand in a layer; embeddings and heads have no place on a layers x roles map."""
    return tuple(unit for unit in scan.measured if unit.layer is not None)


def order_roles(rows: Iterable[Row]) -> list[str]:
    """The roles of some rows, each once: attention, then the MLP, as data flows through a block, then the others."""
    found = dict.fromkeys(row["role"] for row in rows)
    return [*(role for role in BLOCK_ORDER if role in found), *(role for role in found if role not in BLOCK_ORDER)]


def heat_rows(scan: Scan) -> list[Row]:
    """One row per layer and role: the median kappa and excess of its units (several only where there are experts)."""
    cells: dict[tuple[int, str], list[Measures]] = {}
    for unit in laid_out_units(scan):
        if unit.measures is not None and unit.layer is not None:
            cells.setdefault((unit.layer, unit.role), []).append(unit.measures)
    return [
        {
            "layer": layer,
            "role": role,
            "kappa": median(measures.kappa for measures in members),
            "kappa_excess": median(measures.kappa_excess for measures in members),
            "null_kappa": median(measures.null_kappa for measures in members),
            "stable_rank": median(measures.stable_rank for measures in members),
            "units": len(members),
            "unresolved": sum(not measures.resolved for measures in members),
        }
        for (layer, role), members in cells.items()
    ]


def null_rows(scan: Scan) -> list[Row]:
    """One row per measured, eligible unit: kappa, the null's median, and `x`, where its role's column stands.

    Units of one shape share one null, and shapes of nearly one aspect ratio nearly one, so they would hide each other:
    the columns (one per null and role) of such a cluster stand side by side around its middle.
    """
    units = [(unit, unit.measures) for unit in scan.eligible if unit.measures is not None]
    columns = _place_columns([(measures.null_kappa, unit.role) for unit, measures in units])
    return [
        {
            "name": unit.name,
            "role": unit.role,
            "layer": unit.layer,
            "shape": " x ".join(str(size) for size in unit.matrix_shape or unit.shape),
            "null_kappa": measures.null_kappa,
            "x": columns[(measures.null_kappa, unit.role)],
            "kappa": measures.kappa,
            "kappa_low": measures.kappa_low,
            "resolved": measures.resolved,
        }
        for unit, measures in units
    ]


def _place_columns(columns: Iterable[tuple[float, str]]) -> dict[tuple[float, str], float]:
    return {
        column: math.exp(_middle(cluster) + DODGE * (index - (len(cluster) - 1) / 2))
        for cluster in _cluster(columns)
        for index, column in enumerate(cluster)
    }


def _cluster(columns: Iterable[tuple[float, str]]) -> list[list[tuple[float, str]]]:
    """Columns by rising null, roles of one null as in a block; neighbours in one list."""
    places = {role: place for place, role in enumerate(BLOCK_ORDER)}
    clusters: list[list[tuple[float, str]]] = []
    for column in sorted(set(columns), key=lambda column: (column[0], places.get(column[1], len(places)), column[1])):
        if clusters and math.log(column[0] / clusters[-1][-1][0]) < DODGE:
            clusters[-1].append(column)
        else:
            clusters.append([column])
    return clusters


def _middle(cluster: Sequence[tuple[float, str]]) -> float:
    return fmean(math.log(null) for null, _ in cluster)


def unresolved_ranges(rows: Sequence[Row]) -> list[Row]:
    """One row per column with unresolved units: from the lowest that one may have been to the highest as stored."""
    columns: dict[float, list[Row]] = {}
    for row in rows:
        if not row["resolved"]:
            columns.setdefault(row["x"], []).append(row)
    return [
        {"x": x, "kappa": min(row["kappa_low"] for row in members), "to": max(row["kappa"] for row in members)}
        for x, members in sorted(columns.items())
    ]


def null_labels(rows: Sequence[Row]) -> list[Row]:
    """One row per cluster of columns: its middle and the shapes that stand there."""
    labels = []
    for cluster in _cluster((row["null_kappa"], row["role"]) for row in rows):
        shapes = [row["shape"] for row in rows if (row["null_kappa"], row["role"]) in cluster]
        labels.append({"x": math.exp(_middle(cluster)), "shapes": list(dict.fromkeys(shapes))})
    return labels


def trade_rows(comparison: Comparison, new_domain: str, general: str) -> list[Row]:
    """One row per arm: improvement on the new domain (x, positive = better) against the change on general text (y)."""
    learned = {change.arm: change for change in changes_on(comparison, new_domain)}
    kept = {change.arm: change for change in changes_on(comparison, general)}
    return [_trade_row(arm, learned[arm], kept[arm]) for arm in comparison.arms if arm in learned and arm in kept]


def _trade_row(arm: str, learned: Change, kept: Change) -> Row:
    return {
        "arm": arm,
        "gain": -learned.difference.mean,
        "gain_low": -learned.difference.high,
        "gain_high": -learned.difference.low,
        "change": kept.difference.mean,
        "change_low": kept.difference.low,
        "change_high": kept.difference.high,
    }


def seed_rows(comparison: Comparison, new_domain: str, general: str) -> list[Row]:
    """One row per run: the same two numbers from its own evaluation, without an interval."""
    base = comparison.base.corpora
    return [
        {
            "arm": run.arm,
            "seed": run.seed,
            "gain": base[new_domain].loss - run.evaluation.corpora[new_domain].loss,
            "change": run.evaluation.corpora[general].loss - base[general].loss,
        }
        for arm in comparison.arms
        for run in runs_of(comparison, arm)
        if new_domain in run.evaluation.corpora and general in run.evaluation.corpora
    ]


def trade_panels(comparison: Comparison) -> list[tuple[str, str]]:
    """(new domain, general corpus) of each panel."""
    return [(new, general) for new in new_domains(comparison) for general in general_corpora(comparison)]


def mosaic_rows(plans: Sequence[Plan], scan: Scan | None) -> list[Row]:
    """One row per plan, layer and role: how many of its tensors train, of how many."""
    places = _places(plans, scan)
    rows = []
    for plan in plans:
        chosen = _count((tensor.layer, tensor.role) for tensor in plan.tensors)
        rows += [
            {"plan": plan.name, "layer": layer, "role": role, "chosen": chosen.get((layer, role), 0), "of": total}
            for (layer, role), total in places.items()
            if layer is not None
        ]
    return rows


def _places(plans: Sequence[Plan], scan: Scan | None) -> Mapping[tuple[int | None, str], int]:
    planned = {tensor.name: (tensor.layer, tensor.role) for plan in plans for tensor in plan.tensors}
    if scan is None:
        return _count(planned.values())
    scanned = {unit.tensor: (unit.layer, unit.role) for unit in scan.eligible}
    return _count({**scanned, **planned}.values())


def _count(places: Iterable[tuple[int | None, str]]) -> dict[tuple[int | None, str], int]:
    counts: dict[tuple[int | None, str], int] = {}
    for place in places:
        counts[place] = counts.get(place, 0) + 1
    return counts


def loss_rows(comparison: Comparison) -> list[Row]:
    """One row per logged step and run; a loss that was not finite is null, and the line breaks there."""
    return [
        {"arm": arm_run.arm, "seed": arm_run.seed, "step": point.step, "loss": point.loss}
        for arm in comparison.arms
        for arm_run in runs_of(comparison, arm)
        for point in iter_history(arm_run)
    ]


def mean_loss_rows(comparison: Comparison) -> list[Row]:
    """One row per arm and step that every seed of the arm logged with a finite loss: the mean over seeds."""
    rows = []
    for arm in comparison.arms:
        runs = runs_of(comparison, arm)
        losses: dict[int, list[float]] = {}
        for arm_run in runs:
            for point in iter_history(arm_run):
                if point.loss is not None:
                    losses.setdefault(point.step, []).append(point.loss)
        complete = sorted((step, values) for step, values in losses.items() if len(values) == len(runs))
        rows += [{"arm": arm, "step": step, "loss": fmean(values)} for step, values in complete]
    return rows
