"""What came back after a few steps on old text: each arm against the base, and against the control."""

from __future__ import annotations

from collections.abc import Sequence

from oblong.comparing.contrasts import choose_learning_rates
from oblong.evaluation.multiplicity import adjust_holm
from oblong.evaluation.statistics import PerSeed, bootstrap_difference, bootstrap_difference_of_differences
from oblong.records import ArmRun, Evaluation, Interval, RelearnedText
from oblong.tuning.relearning import Gap


def compare_relearning(base: Evaluation, runs: Sequence[ArmRun], *, control: str) -> tuple[RelearnedText, ...]:
    """One entry per text and arm, pooled over the arm's seeds; the base is trained on the old text, too.

    Of a sweep the learning rate that learned most stands for each arm. An arm one of whose runs could not be probed,
    since it diverged, is left out.

    Args:
        base: the Evaluation before tuning.
        runs: every arm with every learning rate and seed.
        control: name of the control arm.
    """
    chosen = {arm: _collect(runs, arm, rate) for arm, rate in choose_learning_rates(runs).items()}
    probed = {arm: found for arm, found in chosen.items() if all(run.relearning is not None for run in found)}
    texts = next((run.relearning.texts for found in probed.values() for run in found if run.relearning), {})
    return tuple(entry for text in texts for entry in _compare_text(base, probed, text, control))


def _compare_text(
    base: Evaluation, probed: dict[str, list[ArmRun]], text: str, control: str
) -> tuple[RelearnedText, ...]:
    against = {
        arm: bootstrap_difference_of_differences(_after(runs, text), _after(probed[control], text))
        for arm, runs in probed.items()
        if arm != control and control in probed
    }
    p_values = {arm: found.p_value for arm, found in against.items() if found.p_value is not None}
    adjusted = dict(zip(p_values, adjust_holm(list(p_values.values())), strict=True))
    return tuple(_describe(base, arm, runs, text, against.get(arm), adjusted.get(arm)) for arm, runs in probed.items())


def _describe(
    base: Evaluation,
    arm: str,
    runs: Sequence[ArmRun],
    text: str,
    against: Interval | None,
    adjusted_p_value: float | None,
) -> RelearnedText:
    tuned = [run.evaluation.corpora[text].documents for run in runs]
    gap = Gap(
        forgotten=bootstrap_difference(tuned, base.corpora[text].documents),
        remaining=bootstrap_difference(*_after(runs, text)),
    )
    return RelearnedText(
        arm=arm,
        corpus=text,
        steps=max(run.relearning.steps for run in runs if run.relearning),
        forgotten=gap.forgotten,
        remaining=gap.remaining,
        returned=gap.returned,
        against_control=against,
        adjusted_p_value=adjusted_p_value,
    )


def _after(runs: Sequence[ArmRun], text: str) -> tuple[PerSeed, PerSeed]:
    """Documents of the tuned model and of the base after relearning, by seed."""
    probes = [run.relearning.texts[text] for run in runs if run.relearning is not None]
    return [probe.tuned.documents for probe in probes], [probe.base.documents for probe in probes]


def _collect(runs: Sequence[ArmRun], arm: str, rate: float | None) -> list[ArmRun]:
    return sorted((run for run in runs if (run.arm, run.learning_rate) == (arm, rate)), key=lambda run: run.seed)
