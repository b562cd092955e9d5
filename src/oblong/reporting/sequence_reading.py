"""A sequence of tasks in words, claiming no more than its intervals allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from oblong.records import ArmSequence, Comparison, SequenceMeasures
from oblong.reporting.formats import format_p_value
from oblong.reporting.sequence_tables import MeasureRow, MeasureSection, measure_sections
from oblong.reporting.verdicts import UNTOLD, join_names

WORDS: Final = {
    "average": ("has gained more", "has gained less"),
    "backward_transfer": ("later tasks damaged earlier ones less", "later tasks damaged earlier ones more"),
    "forward_transfer": ("earlier tasks helped later ones more", "earlier tasks helped later ones less"),
    "forgetting": ("forgets more", "forgets less"),
}
"""Of each measure, what a difference to the control above zero means, and one below."""
COMPARED: Final = ("forgetting", "average")


def describe_sequence(comparison: Comparison) -> tuple[str, ...]:
    """What the control gained and forgot, what the others did otherwise, and who was told the task."""
    sequence = comparison.sequence
    if sequence is None:
        return ()
    control = next((arm for arm in sequence.arms if arm.arm == comparison.control and not arm.told), None)
    sections = [section for key in COMPARED for section in measure_sections(comparison) if section.key == key]
    told = [arm for arm in sequence.arms if arm.told and arm.measures is not None]
    texts = (
        f"{join_names(sequence.tasks)} were learned one after the other. {_describe_arm(control)}",
        " ".join(_compare(section, comparison.control) for section in sections),
        *(_describe_told(arm, alone=len(told) == 1) for arm in told),
        _describe_broken(comparison),
    )
    return tuple(text for text in texts if text)


def _describe_arm(arm: ArmSequence | None) -> str:
    if arm is None or arm.measures is None:
        return ""
    return f"At the end the control, {arm.arm}, {_describe_measures(arm.measures)}."


def _describe_measures(measures: SequenceMeasures) -> str:
    gained, forgotten = measures.average.value, measures.forgetting.value
    verb = "has gained" if gained.mean >= 0 else "has lost"
    told = "" if gained.excludes_zero else ", which cannot be told from zero"
    lost = (
        f"has forgotten {forgotten.mean:.4f} of what it had gained on the earlier ones"
        if forgotten.low > 0
        else "has not demonstrably forgotten anything of the earlier ones"
    )
    return f"{verb} {abs(gained.mean):.4f} nats per token over the base, mean over the tasks{told}, and {lost}"


def _compare(section: MeasureSection, control: str) -> str:
    rivals = [row for row in section.rows if row.measure is not None and row.measure.against_control is not None]
    clauses = [_describe_row(section.key, row) for row in rivals if row.is_decided]
    open_ones = [row.label for row in rivals if not row.is_decided]
    if open_ones:
        clauses.append(f"for {join_names(open_ones)} {UNTOLD}")
    return f"Against {control}, {section.name}: {'; '.join(clauses)}." if clauses else ""


def _describe_row(key: str, row: MeasureRow) -> str:
    assert row.measure is not None
    gap, p_value = row.measure.against_control, row.measure.adjusted_p_value
    assert gap is not None
    assert p_value is not None
    return f"{row.label} {WORDS[key][gap.mean < 0]} ({gap.mean:+.4f}, {format_p_value(p_value)})"


def _describe_told(arm: ArmSequence, *, alone: bool) -> str:
    assert arm.measures is not None
    less = "No other arm is told as much" if alone else "The control is told less"
    return (
        f"Told which task a text is of, {arm.arm} {_describe_measures(arm.measures)}. {less}, so this is not compared "
        f"with {'the control' if alone else 'it'}."
    )


def _describe_broken(comparison: Comparison) -> str:
    broken: Sequence[str] = [
        f"{run.arm} under seed {run.seed} ({run.stopped})" for run in comparison.runs if run.tasks and run.stopped
    ]
    return f"The sequence broke off for {join_names(broken)}: the arm has no measures." if broken else ""
