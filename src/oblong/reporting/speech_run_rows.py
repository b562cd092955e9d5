"""SpeechRuns -> the rows behind the figure: word errors and text retention over training, per run and per arm."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, Literal

from oblong.errors import UserError
from oblong.records import SpeechPoint, SpeechRun, SpeechStage
from oblong.reporting.chart_rows import Row

Axis = Literal["time", "steps"]
SEED_SUFFIX: Final = r"[-_ ](?:seed|s)?[-_ ]?{seed}$"
UNITS: Final = (("h", 3600.0), ("min", 60.0), ("s", 1.0))
MIN_SPAN: Final = 3.0  # a unit is used from three of it on


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRecord:
    """A run under the name of its arm; runs of one arm differ in their seed."""

    arm: str
    run: SpeechRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An evaluation and where it stands: `x` counts from the start of stage B; earlier stages are negative."""

    x: float
    point: SpeechPoint


def name_arm(run: SpeechRun) -> str:
    """The name of a run without the seed that its last part may be: `kappa-lowest-2` with seed 2 is kappa-lowest."""
    return re.sub(SEED_SUFFIX.format(seed=run.seed), "", run.name) or run.name


def check_records(records: Sequence[ArmRecord]) -> None:
    """Refuse what cannot stand in one figure.

    Raises:
        UserError: no run, a run without an evaluation, or one arm with one seed twice.
    """
    if not records:
        raise UserError("there is nothing to report: name at least one SpeechRun")
    seen = set()
    for record in records:
        if not record.run.points:
            raise UserError(f"the run {record.run.name!r} has no evaluation yet: report it after its first one")
        key = (record.arm, record.run.seed)
        if key in seen:
            raise UserError(
                f"two runs of the arm {record.arm!r} have the seed {record.run.seed}: "
                "give them names of their own with NAME=RUN"
            )
        seen.add(key)


def list_arms(records: Sequence[ArmRecord]) -> list[str]:
    """Each arm once, as given."""
    return list(dict.fromkeys(record.arm for record in records))


def list_sets(records: Sequence[ArmRecord]) -> list[str]:
    """Every test set of any run, each once."""
    return list(dict.fromkeys(name for record in records for point in record.run.points for name in point.wer))


def list_texts(records: Sequence[ArmRecord]) -> list[str]:
    """Every text whose retention any run measured, each once."""
    return list(dict.fromkeys(name for record in records for point in record.run.points for name in point.retention))


def place_points(run: SpeechRun, over: Axis = "time") -> list[Placed]:
    """A run's evaluations, in seconds or steps from the start of stage B."""

    def measure(point: SpeechPoint) -> float:
        return point.seconds if over == "time" else float(point.step)

    begins, start = {SpeechStage.ADAPT: 0.0}, 0.0
    for stage in (SpeechStage.ALIGN, SpeechStage.SPELL):
        start -= max((measure(point) for point in run.points if point.stage is stage), default=0.0)
        begins[stage] = start
    return [Placed(x=begins[point.stage] + measure(point), point=point) for point in run.points]


def choose_unit(records: Sequence[ArmRecord]) -> tuple[str, float]:
    """The unit of time for an axis that holds all runs, and its seconds."""
    places = [placed.x for record in records for placed in place_points(record.run)]
    span = max(places) - min(places)
    return next((unit for unit in UNITS if span >= MIN_SPAN * unit[1]), UNITS[-1])


def curve_rows(records: Sequence[ArmRecord], over: Axis = "time") -> list[Row]:
    """One row per run, evaluation and panel: `kind` is `wer` or `retention`, `panel` the test set or text."""
    scale = choose_unit(records)[1] if over == "time" else 1.0
    return [
        {
            "arm": record.arm,
            "seed": record.run.seed,
            "stage": placed.point.stage.value,
            "step": placed.point.step,
            "x": placed.x / scale,
            "best": _is_best(record.run, placed.point),
            **measured,
        }
        for record in records
        for placed in place_points(record.run, over)
        for measured in _measured(placed.point)
    ]


def _measured(point: SpeechPoint) -> Iterator[dict[str, Any]]:
    for name, errors in point.wer.items():
        yield {"kind": "wer", "panel": name, "value": errors.wer}
    for name, text in point.retention.items():
        yield {"kind": "retention", "panel": name, "value": text.ratio}


def _is_best(run: SpeechRun, point: SpeechPoint) -> bool:
    return run.best is not None and (run.best.stage, run.best.step) == (point.stage, point.step)


def mean_curve_rows(rows: Sequence[Row]) -> list[Row]:
    """One row per arm, panel and evaluation that every seed of the arm has: means of place and value over seeds.

    The mean ends where the first of the seeds stopped; an evaluation that lacks a value in one of them is left out.
    """
    seeds: dict[str, set[int]] = {}
    groups: dict[tuple[str, str, str, str, int], list[Row]] = {}
    for row in rows:
        seeds.setdefault(row["arm"], set()).add(row["seed"])
        groups.setdefault((row["arm"], row["kind"], row["panel"], row["stage"], row["step"]), []).append(row)
    return [
        {
            "arm": arm,
            "kind": kind,
            "panel": panel,
            "stage": stage,
            "step": step,
            "x": fmean(row["x"] for row in members),
            "value": fmean(row["value"] for row in members),
            "seeds": len(members),
        }
        for (arm, kind, panel, stage, step), members in groups.items()
        if len(members) == len(seeds[arm]) and all(row["value"] is not None for row in members)
    ]


def repeated_arms(records: Sequence[ArmRecord]) -> set[str]:
    """Arms with more than one seed."""
    counts: Mapping[str, int] = {arm: sum(record.arm == arm for record in records) for arm in list_arms(records)}
    return {arm for arm, count in counts.items() if count > 1}
