"""What the differences are worth: each arm against the base, and against the control arm, document by document."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from oblong.evaluation.multiplicity import adjust_holm
from oblong.evaluation.statistics import bootstrap_difference
from oblong.evaluation.task_changes import compute_task_changes
from oblong.records import ArmRun, Change, DocumentScore, Evaluation, TaskChange


def compute_changes(base: Evaluation, runs: Sequence[ArmRun], *, control: str) -> tuple[Change, ...]:
    """One `Change` per arm and corpus, pooled over the arm's seeds.

    The control arm is compared seed by seed: both arms saw the same training text in the same order under one seed.

    Of a sweep the learning rate that learned most stands for each arm.

    Args:
        base: the Evaluation before tuning.
        runs: every arm with every learning rate and seed.
        control: name of the control arm.

    Returns:
        Changes in the order of the arms, corpora in the order of the base; losses are nats per token.
    """
    best = choose_learning_rates(runs)
    chosen = [run for run in runs if run.learning_rate == best[run.arm]]
    changes = [
        _compute_change(base, chosen, arm=arm, corpus=corpus, control=control)
        for arm in best
        for corpus in base.corpora
    ]
    return adjust_changes(changes)


def choose_learning_rates(runs: Sequence[ArmRun]) -> dict[str, float | None]:
    """Of each arm the learning rate whose final states predict the new domain best, on average over seeds.

    It is chosen on the very texts that it is then reported on, for every arm alike.
    """
    losses: dict[str, dict[float | None, list[float]]] = {}
    for run in runs:
        by_rate = losses.setdefault(run.arm, {})
        by_rate.setdefault(run.learning_rate, []).append(compute_new_domain_loss(run.evaluation))
    return {arm: min(by_rate, key=lambda rate: fmean(by_rate[rate])) for arm, by_rate in losses.items()}


def compute_new_domain_loss(evaluation: Evaluation) -> float:
    """Mean loss of the texts that are being learned, nats per token; every text counts the same."""
    return fmean(corpus.loss for corpus in evaluation.corpora.values() if corpus.new_domain)


def compute_answer_changes(base: Evaluation, runs: Sequence[ArmRun]) -> tuple[TaskChange, ...]:
    """What became of the base's answers to the suite, by arm and task; empty where no suite was asked.

    Of a sweep the learning rate that learned most stands for each arm. A run that is judged by a state on the way has
    no answers and is left out: `num_seeds` counts the others.

    Args:
        base: the Evaluation before tuning.
        runs: every arm with every learning rate and seed.
    """
    changes: list[TaskChange] = []
    for arm, rate in choose_learning_rates(runs).items():
        chosen = [run for run in runs if (run.arm, run.learning_rate) == (arm, rate) and run.evaluation.suite]
        if base.suite and chosen:
            changes += compute_task_changes(base.suite, [run.evaluation.suite for run in chosen], arm=arm)
    return tuple(changes)


def adjust_changes(changes: Sequence[Change]) -> tuple[Change, ...]:
    """Put in the p-values against the control, adjusted by Holm over the arms on each corpus.

    One corpus is one family: "does any arm differ from the control here?" is one question, asked once per corpus.
    """
    adjusted = list(changes)
    for corpus in dict.fromkeys(change.corpus for change in changes):
        members = [
            (place, change.against_control.p_value)
            for place, change in enumerate(changes)
            if change.corpus == corpus and change.against_control and change.against_control.p_value is not None
        ]
        for (place, _), p_value in zip(members, adjust_holm([p_value for _, p_value in members]), strict=True):
            adjusted[place] = changes[place].model_copy(update={"adjusted_p_value": p_value})
    return tuple(adjusted)


def _compute_change(base: Evaluation, runs: Sequence[ArmRun], *, arm: str, corpus: str, control: str) -> Change:
    after = _collect(runs, arm, corpus)
    return Change(
        arm=arm,
        corpus=corpus,
        learning_rate=next(run.learning_rate for run in runs if run.arm == arm),
        before=base.corpora[corpus].loss,
        after=sum(run.evaluation.corpora[corpus].loss for run in runs if run.arm == arm) / len(after),
        difference=bootstrap_difference(after, base.corpora[corpus].documents),
        against_control=None if arm == control else bootstrap_difference(after, _collect(runs, control, corpus)),
    )


def _collect(runs: Sequence[ArmRun], arm: str, corpus: str) -> list[Sequence[DocumentScore]]:
    """Document scores of one arm, one entry per seed, seeds in order."""
    chosen = sorted((run for run in runs if run.arm == arm), key=lambda run: run.seed)
    return [run.evaluation.corpora[corpus].documents for run in chosen]
