"""Which differences to the control are significant and which are not, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from oblong.records import Change, Comparison
from oblong.reporting.formats import format_p_value
from oblong.reporting.noise_floors import find_noise_floor, format_floor, is_below_noise
from oblong.reporting.verdicts import changes_on, general_corpora, is_significant, join_names, new_domains


def describe_significance(comparison: Comparison) -> tuple[str, ...]:
    """One or two sentences for each corpus on which arms are compared with the control; none in older records.

    A difference is significant if its p-value, adjusted by Holm over the arms on that corpus, is below one minus the
    confidence of the intervals. What is not significant is said not to be, and not called equal; what is, and is no
    larger than the noise floor, is said not to be worth a claim.
    """
    corpora = (*new_domains(comparison), *general_corpora(comparison))
    tested = {corpus: _tested(changes_on(comparison, corpus)) for corpus in corpora}
    floors = {corpus: find_noise_floor(comparison, [corpus]) for corpus in corpora}
    return tuple(
        _describe_corpus(comparison.control, corpus, changes, floors[corpus])
        for corpus, changes in tested.items()
        if changes
    )


def _tested(changes: Sequence[Change]) -> list[Change]:
    return [change for change in changes if change.against_control and change.adjusted_p_value is not None]


def _describe_corpus(control: str, corpus: str, changes: Sequence[Change], floor: float) -> str:
    tested = [change for change in changes if is_significant(change)]
    significant = [change for change in tested if not is_below_noise(change.against_control, floor)]
    hidden = [change for change in tested if change not in significant]
    others = [change for change in changes if not is_significant(change)]
    sentences = []
    if significant:
        verb = "differs" if len(significant) == 1 else "differ"
        sentences.append(f"On {corpus} {_list(significant)} {verb} significantly from {control}.")
    if hidden:
        sentences.append(describe_hidden(_list(hidden), len(hidden), control, floor, place=f"On {corpus} "))
    if others:
        sentences.append(
            f"On {corpus} no significant difference from {control} is found for {_list(others)}, which does not show "
            f"that {'it is' if len(others) == 1 else 'they are'} equal."
        )
    if len(changes) > 1:
        sentences.append(f"These p-values are adjusted for {len(changes)} arms (Holm).")
    return " ".join(sentences)


def describe_hidden(arms: str, count: int, control: str, floor: float, *, place: str = "") -> str:
    """The sentence about differences that are significant and no larger than the noise floor."""
    verb = "differs" if count == 1 else "differ"
    return (
        f"{place}{arms} {verb} from {control} by no more than the noise floor of {format_floor(floor)}, by which two "
        "evaluations of one model differ: that is not worth a claim, whatever the p-value."
    )


def _list(changes: Sequence[Change]) -> str:
    return join_names(_describe(change) for change in changes)


def _describe(change: Change) -> str:
    gap, p_value = change.against_control, change.adjusted_p_value
    assert gap is not None
    assert p_value is not None
    return f"{change.arm} ({gap.mean:+.4f} nats per token, {format_p_value(p_value)})"
