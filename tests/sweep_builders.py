"""Synthetic Comparisons of a sweep: curves with known shapes, and what was found at a known gain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from oblong.evaluation.fronts import DEFAULT_REFERENCE, compute_hypervolume, find_front
from oblong.records import (
    ArmRetention,
    AtGain,
    Comparison,
    LearningForgettingCurve,
    Plan,
    Reach,
    Retention,
    Run,
)
from tests.report_builders import CONTROL, NEW_DOMAIN, make_comparison, make_interval

RATES: Mapping[str, float] = {"5e-05": 5e-5, "2e-04": 2e-4, "8e-04": 8e-4}
STEPS = (20, 40, 60)
GAIN = 0.36
GENERAL = ("english prose", "python code")
HALF_WIDTH = 0.006


@dataclass(frozen=True, kw_only=True)
class SweptArm:
    """Forgetting is cost * gain^2 along the best rate, and half as much again along the others.

    Attributes:
        cost: of english prose; of python code it is half of that.
        p_value: adjusted, of the difference to the control; None leaves it undecided by the interval.
        best: the learning rate that forgets least.
        reach: what was found about the gain.
        stretch: gains are multiplied by it.
        method: what is trained against forgetting.
        criterion: of its Plan.
    """

    cost: float
    p_value: float | None = 0.5
    best: str = "2e-04"
    reach: Reach = Reach.REACHED
    stretch: float = 1.0
    method: str | None = None
    criterion: str = "kappa"


DEMO_ARMS: Mapping[str, SweptArm] = {
    "kappa-lowest": SweptArm(cost=0.31, p_value=0.0021),
    "kappa-highest": SweptArm(cost=0.30, p_value=0.012, best="8e-04"),
    "kappa-lowest-within-role": SweptArm(cost=0.09, p_value=0.00001),
    "ewc": SweptArm(cost=0.16, p_value=0.41, best="5e-05"),
    "lora": SweptArm(cost=0.2, reach=Reach.UNSURE, stretch=0.9),
    "freeze-bottom": SweptArm(cost=0.2, reach=Reach.NOT_REACHED, stretch=0.6),
    CONTROL: SweptArm(cost=0.2),
}
FACTORS: Mapping[str, float] = {GENERAL[0]: 1.0, GENERAL[1]: 0.5}


def make_sweep(
    arms: Mapping[str, SweptArm] = DEMO_ARMS,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    gain: float | None = GAIN,
    rates: Mapping[str, float] = RATES,
    data_free: Mapping[str, bool] | None = None,
) -> Comparison:
    """A Comparison of a sweep: two retention texts, pooled and each by itself."""
    ends = {arm: _final_changes(spec, rates) for arm, spec in arms.items()}
    comparison = make_comparison(ends, seeds=seeds, num_documents=4)
    highest = list(rates.values())[-1]
    runs = [
        run.model_copy(update={"learning_rate": rate, "run": _note_method(run.run, arms[run.arm].method)})
        for rate in rates.values()
        for run in comparison.runs
    ]
    return comparison.model_copy(
        update={
            "plans": {arm: _with_criterion(plan, arms[arm].criterion) for arm, plan in comparison.plans.items()},
            "runs": tuple(sorted(runs, key=lambda run: list(arms).index(run.arm))),
            "changes": tuple(change.model_copy(update={"learning_rate": highest}) for change in comparison.changes),
            "retention": tuple(
                _make_retention(arms, corpora, gain, rates) for corpora in (GENERAL, GENERAL[:1], GENERAL[1:])
            ),
            "data_free": dict.fromkeys(arms, True) | {"ewc": False} if data_free is None else data_free,
        }
    )


def _note_method(run: Run, method: str | None) -> Run:
    return run.model_copy(update={"recipe": {**run.recipe, "method": method and {"name": method}}})


def _with_criterion(plan: Plan, criterion: str) -> Plan:
    return plan.model_copy(update={"rule": plan.rule.model_copy(update={"criterion": criterion})})


def make_many_arms() -> dict[str, SweptArm]:
    """Twenty arms: twelve selections by three criteria, seven methods and the control."""
    selections = [
        (f"{criterion}-{order}{within}", criterion)
        for criterion in ("kappa", "kappa_excess", "snr")
        for order in ("lowest", "highest")
        for within in ("", "-within-role")
    ]
    arms = {
        name: SweptArm(cost=0.1 + 0.02 * index, stretch=1.1 - 0.02 * index, criterion=criterion)
        for index, (name, criterion) in enumerate(selections)
    }
    methods = ("ewc", "l2_sp", "replay", "kl_to_base", "mofo", "wise_ft", "a_gem")
    arms |= {name: SweptArm(cost=0.08 + 0.04 * index, method=name) for index, name in enumerate(methods)}
    return arms | {CONTROL: SweptArm(cost=0.2)}


def _final_changes(spec: SweptArm, rates: Mapping[str, float]) -> dict[str, float]:
    end = _make_curve(spec, list(rates)[-1], 1.0, rates)
    return {NEW_DOMAIN: -end.gains[-1]} | {corpus: FACTORS[corpus] * end.forgettings[-1] for corpus in GENERAL}


def _make_retention(
    arms: Mapping[str, SweptArm], corpora: tuple[str, ...], gain: float | None, rates: Mapping[str, float]
) -> Retention:
    factor = sum(FACTORS[corpus] for corpus in corpora) / len(corpora)
    return Retention(
        corpora=corpora,
        gain=gain,
        reference=DEFAULT_REFERENCE,
        arms=tuple(_make_arm(arm, arms, factor, gain, rates) for arm in arms),
    )


def _make_arm(
    arm: str, arms: Mapping[str, SweptArm], factor: float, gain: float | None, rates: Mapping[str, float]
) -> ArmRetention:
    spec = arms[arm]
    curves = tuple(_make_curve(spec, setting, factor, rates) for setting in rates)
    points = [point for curve in curves for point in zip(curve.gains, curve.forgettings, strict=True)]
    return ArmRetention(
        arm=arm,
        curves=curves,
        at_gain=None if gain is None else _find(spec, factor * spec.cost * gain**2, gain, (spec.best,)),
        against_control=None
        if gain is None or arm == CONTROL
        else _find(
            spec,
            factor * (spec.cost - arms[CONTROL].cost) * gain**2,
            gain,
            (spec.best, arms[CONTROL].best),
            p_value=spec.p_value,
        ),
        front=find_front(points),
        hypervolume=compute_hypervolume(points),
    )


def _find(
    spec: SweptArm, forgetting: float, gain: float, settings: tuple[str, ...], *, p_value: float | None = None
) -> AtGain:
    if spec.reach is not Reach.REACHED:
        return AtGain(gain=gain, reach=spec.reach, share_reached=0.61 if spec.reach is Reach.UNSURE else 0.0)
    return AtGain(
        gain=gain,
        reach=spec.reach,
        share_reached=1,
        forgetting=make_interval(forgetting, HALF_WIDTH),
        adjusted_p_value=p_value,
        settings=settings,
    )


def _make_curve(spec: SweptArm, setting: str, factor: float, rates: Mapping[str, float]) -> LearningForgettingCurve:
    place = list(rates).index(setting) + 1
    gains = tuple(spec.stretch * 0.5 * (1 - math.exp(-step * place / 60)) for step in STEPS)
    dear = 1.0 if setting == spec.best else 1.5
    return LearningForgettingCurve(
        setting=setting,
        learning_rate=rates[setting],
        steps=STEPS,
        gains=gains,
        forgettings=tuple(factor * dear * spec.cost * reached**2 for reached in gains),
    )
