"""What the arms of a sweep forgot: along their curves, at the gain that they have in common, and as areas.

A text that counts is one corpus, or all corpora of a kind together, each weighing the same whatever its length
(design/032). Forgetting is the rise of the loss, and where every state was compared with the base also the divergence
from it, KL(base || model): a loss can fall on old text while what the model says of it changes (design/034).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from oblong.comparing.cells import name_rate
from oblong.evaluation.curves import Array, Curve, Texts, collect_changes, list_points
from oblong.evaluation.fronts import DEFAULT_REFERENCE, compute_hypervolume, find_front
from oblong.evaluation.matched_gain import compare_all_at_gain, find_common_gain, measure_at_gain
from oblong.records import (
    ArmRetention,
    ArmRun,
    AtGain,
    DocumentScore,
    Evaluation,
    LearningForgettingCurve,
    Retention,
    RetentionMeasure,
)

SHARE_OF_CONTROL: Final = 0.5  # a heuristic: an arm that learns less than that would drag the common gain to nothing

Corpora = tuple[str, ...]


class Kept(NamedTuple):
    """What must not be forgotten, and how forgetting it is measured."""

    corpora: Corpora
    measure: RetentionMeasure


def compare_retention(
    base: Evaluation, runs: Sequence[ArmRun], *, control: str, gain: float | None = None
) -> tuple[Retention, ...]:
    """Compare the arms of a sweep where they have learned equally much.

    Args:
        base: the Evaluation before tuning.
        runs: every arm with every learning rate and seed, and their evaluated states.
        control: name of the control arm.
        gain: where to compare, nats per token; default: the largest gain that is surely reached by all arms that
            learn at least half as much as the control. The other arms are then `not reached`.

    Returns:
        All retention corpora pooled, if there are several, then each by itself; in loss, then in divergence if all
        states have it. Nothing where no arm was evaluated at two states or two learning rates: one state is a point,
        and no curve leads through it.
    """
    kept = tuple(name for name, corpus in base.corpora.items() if not corpus.new_domain)
    if not kept or not is_sweep(runs):
        return ()
    pooled = [kept] if len(kept) > 1 else []
    measures: list[RetentionMeasure] = ["loss", "kl"] if has_divergence(runs, kept) else ["loss"]
    texts = [Kept(corpora, measure) for measure in measures for corpora in [*pooled, *((name,) for name in kept)]]
    return tuple(_compare(base, runs, text, control, gain) for text in texts)


def has_divergence(runs: Sequence[ArmRun], corpora: Corpora) -> bool:
    """Whether every evaluated state was compared with the base on these corpora."""
    states = [state.evaluation for run in runs for state in run.states if state.step]
    return all(evaluation.corpora[name].kl is not None for evaluation in states for name in corpora)


def is_sweep(runs: Sequence[ArmRun]) -> bool:
    """Whether some arm has more than one evaluated state over all its learning rates."""
    points: dict[str, set[tuple[float | None, int]]] = {}
    for run in runs:
        points.setdefault(run.arm, set()).update((run.learning_rate, state.step) for state in run.states)
    return any(len(found) > 1 for found in points.values())


def _compare(base: Evaluation, runs: Sequence[ArmRun], kept: Kept, control: str, gain: float | None) -> Retention:
    before = make_base_texts(base, kept)
    arms = {arm: make_curves(runs, arm, kept) for arm in dict.fromkeys(run.arm for run in runs)}
    arms = {arm: curves for arm, curves in arms.items() if curves}
    found = (gain or choose_gain(arms, before, control)) if control in arms else None
    against = {} if found is None else compare_all_at_gain(_list_curves(arms), before, control=control, gain=found)
    return Retention(
        corpora=kept.corpora,
        measure=kept.measure,
        gain=found,
        reference=DEFAULT_REFERENCE,
        arms=tuple(_describe(arm, curves, before, found, against.get(arm)) for arm, curves in arms.items()),
    )


ArmCurves = Mapping[float, tuple[tuple[int, ...], Curve]]
"""By learning rate, rising: the steps of the states, and the curve through them."""


def make_curves(runs: Sequence[ArmRun], arm: str, kept: Kept) -> ArmCurves:
    """An arm's curves through the states that all its seeds have; a learning rate without one is left out."""
    by_rate: dict[float, list[ArmRun]] = {}
    for run in runs:
        if run.arm == arm and run.learning_rate is not None:
            by_rate.setdefault(run.learning_rate, []).append(run)
    return {rate: found for rate in sorted(by_rate) if (found := _make_curve(rate, by_rate[rate], kept))[0]}


def _make_curve(rate: float, runs: Sequence[ArmRun], kept: Kept) -> tuple[tuple[int, ...], Curve]:
    states = [{state.step: state.evaluation for state in run.states if state.step} for run in _by_seed(runs)]
    steps = tuple(sorted(set[int].intersection(*(set(of_seed) for of_seed in states))))
    points = [
        Texts(
            learned=[collect_documents(of_seed[step], list_new_domains(of_seed[step])) for of_seed in states],
            kept=[collect_kept(of_seed[step], kept) for of_seed in states],
        )
        for step in steps
    ]
    return steps, Curve(name=name_rate(rate), points=points)


def _by_seed(runs: Sequence[ArmRun]) -> list[ArmRun]:
    return sorted(runs, key=lambda run: run.seed)


def make_base_texts(base: Evaluation, kept: Kept) -> Texts:
    """The base's scores, with the weights that make every corpus count the same."""
    learned = list_new_domains(base)
    return Texts(
        learned=[collect_documents(base, learned)],
        kept=[collect_kept(base, kept)],
        learned_weights=weigh_equally(base, learned),
        kept_weights=weigh_equally(base, kept.corpora),
    )


def list_new_domains(evaluation: Evaluation) -> Corpora:
    """The corpora that are being learned."""
    return tuple(name for name, corpus in evaluation.corpora.items() if corpus.new_domain)


def collect_documents(evaluation: Evaluation, corpora: Corpora) -> tuple[DocumentScore, ...]:
    """The documents of several corpora, one after the other."""
    return tuple(document for name in corpora for document in evaluation.corpora[name].documents)


def collect_kept(evaluation: Evaluation, kept: Kept) -> tuple[DocumentScore, ...]:
    """The documents that must not be forgotten; in divergence, that of the base from itself is zero."""
    documents = collect_documents(evaluation, kept.corpora)
    if kept.measure == "loss":
        return documents
    return tuple(document.model_copy(update={"nll": document.kl or 0.0}) for document in documents)


def weigh_equally(base: Evaluation, corpora: Corpora) -> Array:
    """A weight per document, 1 / tokens of its corpus: the pooled loss is then the mean of the corpora's losses."""
    return np.concatenate(
        [np.full(len(base.corpora[name].documents), 1 / base.corpora[name].num_tokens) for name in corpora]
    )


def choose_gain(arms: Mapping[str, ArmCurves], base: Texts, control: str) -> float | None:
    """The gain to compare at; None where the control learned nothing."""
    largest = {arm: max(gain for gain, _ in list_points(curves, base)) for arm, curves in _list_curves(arms).items()}
    worth_it = [
        curves for arm, curves in _list_curves(arms).items() if largest[arm] >= SHARE_OF_CONTROL * largest[control]
    ]
    return find_common_gain(worth_it, base) if largest[control] > 0 else None


def _list_curves(arms: Mapping[str, ArmCurves]) -> dict[str, list[Curve]]:
    return {arm: [curve for _, curve in curves.values()] for arm, curves in arms.items()}


def _describe(arm: str, curves: ArmCurves, base: Texts, gain: float | None, against: AtGain | None) -> ArmRetention:
    listed = [curve for _, curve in curves.values()]
    points = list_points(listed, base)
    changes = collect_changes(listed, base)
    described = []
    for (rate, (steps, _)), change in zip(curves.items(), changes, strict=True):
        gains, forgettings = (values.mean(axis=1).tolist() for values in change.per_seed())
        described.append(
            LearningForgettingCurve(
                setting=change.name, learning_rate=rate, steps=steps, gains=gains, forgettings=forgettings
            )
        )
    return ArmRetention(
        arm=arm,
        curves=tuple(described),
        at_gain=None if gain is None else measure_at_gain(listed, base, gain=gain),
        against_control=against,
        front=find_front(points),
        hypervolume=compute_hypervolume(points),
    )
