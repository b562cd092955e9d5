"""A sequence of tasks -> rows -> two tables: the losses after each task, and what they come to.

`matrix_sections` and `measure_sections` are pure; the rest only formats, for the terminal and the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from rich.markup import escape
from rich.table import Table

from oblong.records import ArmSequence, Comparison, SequenceMeasure, TaskSequence
from oblong.reporting.arms import SEEDS_THAT_SHOW_VARIATION
from oblong.reporting.formats import NOTHING, format_interval, format_p_value
from oblong.reporting.table_layout import bold_if, choose_table, make_table
from oblong.reporting.verdicts import join_names

MEASURE_NAMES: Final[Mapping[str, str]] = {
    "average": "average gain",
    "backward_transfer": "backward transfer",
    "forward_transfer": "forward transfer",
    "forgetting": "forgetting",
}
MEASURE_MEANINGS: Final[Mapping[str, str]] = {
    "average": "how far the loss has fallen from the base's at the end, mean over the tasks",
    "backward_transfer": "what later tasks did to earlier ones, below 0: damage",
    "forward_transfer": "what earlier tasks did for later ones before these were learned, above 0: help",
    "forgetting": "how far earlier tasks have fallen from the best that they were, above 0: forgotten",
}
MEASURE_HEADINGS: Final = ("arm", "value", "minus control", "adjusted p")
TOLD: Final = "told the task"
WIDE: Final = 120  # columns


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """The losses after one task, means over seeds; nats per token."""

    after: str
    losses: tuple[float, ...]
    learned: int
    """The column of the text of that task."""


@dataclass(frozen=True, kw_only=True)
class MatrixSection:
    """One arm's way through the tasks; fewer rows where a seed's sequence broke off."""

    arm: str
    label: str
    rows: tuple[MatrixRow, ...]


@dataclass(frozen=True, kw_only=True)
class MeasureRow:
    """One arm under one measure; None where its sequence broke off."""

    arm: str
    label: str
    is_control: bool
    measure: SequenceMeasure | None

    @property
    def is_decided(self) -> bool:
        """Whether the difference to the control is significant."""
        measure = self.measure
        if measure is None or measure.against_control is None or measure.adjusted_p_value is None:
            return False
        return measure.adjusted_p_value < 1 - measure.against_control.confidence


@dataclass(frozen=True, kw_only=True)
class MeasureSection:
    """One measure: its name and every arm's row, in recipe order."""

    key: str
    name: str
    rows: tuple[MeasureRow, ...]


def label_arm(arm: ArmSequence) -> str:
    """Its name, and whether it was told the task."""
    return f"{arm.arm}, {TOLD}" if arm.told else arm.arm


def matrix_sections(sequence: TaskSequence) -> tuple[MatrixSection, ...]:
    """Every arm's matrix, as far as all of its seeds got."""
    return tuple(
        MatrixSection(arm=arm.arm, label=label_arm(arm), rows=tuple(_iter_rows(sequence, arm))) for arm in sequence.arms
    )


def _iter_rows(sequence: TaskSequence, arm: ArmSequence) -> Iterator[MatrixRow]:
    for place, task in enumerate(sequence.tasks):
        if all(len(matrix) > place for matrix in arm.losses):
            columns = zip(*(matrix[place] for matrix in arm.losses), strict=True)
            yield MatrixRow(after=task, losses=tuple(map(fmean, columns)), learned=place)


def measure_sections(comparison: Comparison) -> tuple[MeasureSection, ...]:
    """The four measures of every arm; none without a sequence."""
    sequence = comparison.sequence
    if sequence is None:
        return ()
    return tuple(
        MeasureSection(
            key=key,
            name=name,
            rows=tuple(
                MeasureRow(
                    arm=arm.arm,
                    label=label_arm(arm),
                    is_control=arm.arm == comparison.control and not arm.told,
                    measure=None if arm.measures is None else getattr(arm.measures, key),
                )
                for arm in sequence.arms
            ),
        )
        for key, name in MEASURE_NAMES.items()
    )


# --- formatting ---------------------------------------------------------------------------------------------------


def measure_cells(row: MeasureRow) -> tuple[str, ...]:
    """The texts under MEASURE_HEADINGS."""
    if row.measure is None:
        return (row.label, "broke off", NOTHING, NOTHING)
    p_value = row.measure.adjusted_p_value
    return (
        row.label,
        format_interval(row.measure.value),
        "control" if row.is_control else format_interval(row.measure.against_control),
        NOTHING if p_value is None else format_p_value(p_value).removeprefix("p = ").removeprefix("p "),
    )


def matrix_caption(sequence: TaskSequence) -> str:
    """How to read the matrices."""
    told = any(arm.told for arm in sequence.arms)
    note = (
        f" {TOLD.capitalize()}: each learned task's text is read as that task's; the others have no task to tell, and "
        "are read as without."
        if told
        else ""
    )
    return (
        "Loss in nats per token after each task, lower is better; bold: the task that was just learned. To its right "
        f"what is still to come, to its left what may be forgotten.{note}"
    )


def measure_caption(comparison: Comparison) -> str:
    """How to read the measures."""
    sequence = comparison.sequence
    seeds = min((len(arm.seeds) for arm in sequence.arms), default=0) if sequence else 0
    over = "documents and seeds" if seeds >= SEEDS_THAT_SHOW_VARIATION else "documents"
    meanings = "; ".join(f"{MEASURE_NAMES[key]}: {meaning}" for key, meaning in MEASURE_MEANINGS.items())
    return (
        f"Nats per token. {meanings[0].upper()}{meanings[1:]}. [ ] are 95 % bootstrap intervals over {over}; p is "
        f"adjusted for the number of arms (Holm). The control is {comparison.control}."
    )


def render_sequence(comparison: Comparison, *, width: int = WIDE) -> list[Table]:
    """Both tables for a terminal; none without a sequence. Where there is not the room intervals are folded."""
    sequence = comparison.sequence
    if sequence is None:
        return []
    matrices = (_render_matrices(sequence, gap=gap) for gap in (3, 1))
    measures = (
        _render_measures(comparison, gap=gap, folded=folded) for gap, folded in ((3, False), (1, False), (1, True))
    )
    return [choose_table(matrices, width), choose_table(measures, width)]


def _render_matrices(sequence: TaskSequence, *, gap: int) -> Table:
    title = f"After each of {join_names(sequence.tasks)}"
    table = make_table(escape(title), ["after", *map(escape, sequence.texts)], matrix_caption(sequence), gap=gap)
    table.add_row("base", *(f"{loss:.4f}" for loss in sequence.base))
    table.add_section()
    for section in matrix_sections(sequence):
        table.add_row(escape(section.label), style="bold")
        for row in section.rows:
            cells = (bold_if(f"{loss:.4f}", place == row.learned) for place, loss in enumerate(row.losses))
            table.add_row(f"  {escape(row.after)}", *cells)
        table.add_section()
    return table


def _render_measures(comparison: Comparison, *, gap: int, folded: bool) -> Table:
    table = make_table("What the sequence comes to", MEASURE_HEADINGS, measure_caption(comparison), gap=gap)
    for section in measure_sections(comparison):
        table.add_row(section.name, style="bold")
        for row in section.rows:
            cells = [escape(cell.replace(" [", "\n[") if folded else cell) for cell in measure_cells(row)]
            cells[2] = bold_if(cells[2], row.is_decided)
            table.add_row(f"  {cells[0]}", *cells[1:])
        table.add_section()
    return table
