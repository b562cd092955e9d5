"""Which differences to the control are significant and which are not, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from oblong.records import AtGain, Change, Comparison, Interval, Reach
from oblong.reporting.formats import format_interval
from oblong.reporting.verdicts import changes_on, general_corpora, is_significant, join_names, new_domains

SMALLEST_SHOWN: Final = 1e-4  # the t approximation is not good to smaller p-values


def describe_significance(comparison: Comparison) -> tuple[str, ...]:
    """One or two sentences for each corpus on which arms are compared with the control; none in older records.

    A difference is significant if its p-value, adjusted by Holm over the arms on that corpus, is below one minus the
    confidence of the intervals. What is not significant is said not to be, and not called equal.
    """
    corpora = (*new_domains(comparison), *general_corpora(comparison))
    tested = {corpus: _tested(changes_on(comparison, corpus)) for corpus in corpora}
    return tuple(_describe_corpus(comparison.control, corpus, changes) for corpus, changes in tested.items() if changes)


def describe_at_gain(differences: Mapping[str, AtGain], *, control: str) -> tuple[str, ...]:
    """Sentences on what each arm forgets at the gain at which all are compared, relative to the control.

    Args:
        differences: by arm, the arm's forgetting minus the control's; all at one gain.
        control: name of the control.
    """
    gains = {at.gain for at in differences.values()}
    texts = [f"At a gain of {gain:.4f} nats per token:" for gain in sorted(gains)]
    return (*texts, *(_describe_arm(arm, at, control) for arm, at in differences.items()))


def _describe_arm(arm: str, at: AtGain, control: str) -> str:
    if at.forgetting is None:
        reason = "is too close to the end of a curve" if at.reach is Reach.UNSURE else "is not reached by both"
        return f"{arm} cannot be compared with {control}: the gain {reason} ({at.share_reached:.0%} of the resamples)."
    gap = at.forgetting
    p_value = gap.p_value if at.adjusted_p_value is None else at.adjusted_p_value
    detail = f"{format_interval(gap)} nats per token" + ("" if p_value is None else f", {format_p_value(p_value)}")
    if _holds_zero(gap, at.adjusted_p_value):
        return f"{arm} does not forget significantly more or less than {control} ({detail}); that is not equality."
    return f"{arm} forgets significantly {'less' if gap.mean < 0 else 'more'} than {control} ({detail})."


def _holds_zero(gap: Interval, adjusted_p_value: float | None) -> bool:
    return not gap.excludes_zero if adjusted_p_value is None else adjusted_p_value >= 1 - gap.confidence


def format_p_value(p_value: float) -> str:
    """`p = 0.031`, `p < 0.0001`."""
    if p_value < SMALLEST_SHOWN:
        return f"p < {SMALLEST_SHOWN:.4f}"
    return f"p = {p_value:.2g}" if p_value < 0.995 else "p = 1"


def _tested(changes: Sequence[Change]) -> list[Change]:
    return [change for change in changes if change.against_control and change.adjusted_p_value is not None]


def _describe_corpus(control: str, corpus: str, changes: Sequence[Change]) -> str:
    significant = [change for change in changes if is_significant(change)]
    others = [change for change in changes if not is_significant(change)]
    sentences = []
    if significant:
        verb = "differs" if len(significant) == 1 else "differ"
        sentences.append(f"On {corpus} {_list(significant)} {verb} significantly from {control}.")
    if others:
        sentences.append(
            f"On {corpus} no significant difference from {control} is found for {_list(others)}, which does not show "
            f"that {'it is' if len(others) == 1 else 'they are'} equal."
        )
    if len(changes) > 1:
        sentences.append(f"These p-values are adjusted for {len(changes)} arms (Holm).")
    return " ".join(sentences)


def _list(changes: Sequence[Change]) -> str:
    return join_names(_describe(change) for change in changes)


def _describe(change: Change) -> str:
    gap, p_value = change.against_control, change.adjusted_p_value
    assert gap is not None
    assert p_value is not None
    return f"{change.arm} ({gap.mean:+.4f} nats per token, {format_p_value(p_value)})"
