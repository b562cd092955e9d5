"""What the differences are worth: each arm against the base, and against the control arm, document by document."""

from __future__ import annotations

from collections.abc import Sequence

from oblong.evaluation.multiplicity import adjust_holm
from oblong.evaluation.statistics import bootstrap_difference
from oblong.records import ArmRun, Change, DocumentScore, Evaluation


def compute_changes(base: Evaluation, runs: Sequence[ArmRun], *, control: str) -> tuple[Change, ...]:
    """One `Change` per arm and corpus, pooled over the arm's seeds.

    The control arm is compared seed by seed: both arms saw the same training text in the same order under one seed.

    Args:
        base: the Evaluation before tuning.
        runs: every arm with every seed.
        control: name of the control arm.

    Returns:
        Changes in the order of the arms, corpora in the order of the base; losses are nats per token.
    """
    arms = dict.fromkeys(run.arm for run in runs)
    changes = [
        _compute_change(base, runs, arm=arm, corpus=corpus, control=control) for arm in arms for corpus in base.corpora
    ]
    return adjust_changes(changes)


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
        before=base.corpora[corpus].loss,
        after=sum(run.evaluation.corpora[corpus].loss for run in runs if run.arm == arm) / len(after),
        difference=bootstrap_difference(after, base.corpora[corpus].documents),
        against_control=None if arm == control else bootstrap_difference(after, _collect(runs, control, corpus)),
    )


def _collect(runs: Sequence[ArmRun], arm: str, corpus: str) -> list[Sequence[DocumentScore]]:
    """Document scores of one arm, one entry per seed, seeds in order."""
    chosen = sorted((run for run in runs if run.arm == arm), key=lambda run: run.seed)
    return [run.evaluation.corpora[corpus].documents for run in chosen]
