"""What the differences are worth: each arm against the base, and against the control arm, document by document."""

from __future__ import annotations

from collections.abc import Sequence

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
    return tuple(
        _compute_change(base, runs, arm=arm, corpus=corpus, control=control) for arm in arms for corpus in base.corpora
    )


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
