"""What a few steps on old text bring back -> rows -> one table and its reading."""

from __future__ import annotations

from typing import Final

from rich.markup import escape
from rich.table import Table

from oblong.records import Comparison, RelearnedText
from oblong.reporting.formats import format_interval, format_share
from oblong.reporting.table_layout import bold_if, choose_table, make_table
from oblong.reporting.verdicts import join_names

RELEARNING_HEADINGS: Final = ("arm", "forgotten", "remaining", "came back", "minus control")
WIDE: Final = 120  # columns


def list_relearned(comparison: Comparison) -> tuple[tuple[str, tuple[RelearnedText, ...]], ...]:
    """The entries of each text, texts and arms in the order of the record."""
    texts = dict.fromkeys(entry.corpus for entry in comparison.relearning)
    return tuple((text, tuple(entry for entry in comparison.relearning if entry.corpus == text)) for text in texts)


def is_decided(entry: RelearnedText) -> bool:
    """Whether what remains differs significantly from what remains of the control's."""
    gap, p_value = entry.against_control, entry.adjusted_p_value
    return gap is not None and p_value is not None and p_value < 1 - gap.confidence


def relearning_cells(entry: RelearnedText) -> tuple[str, ...]:
    """The texts under RELEARNING_HEADINGS."""
    return (
        entry.arm,
        format_interval(entry.forgotten),
        format_interval(entry.remaining),
        format_share(entry.returned),
        "control" if entry.against_control is None else format_interval(entry.against_control),
    )


def relearning_caption(comparison: Comparison) -> str:
    """How to read the table."""
    steps = _count_steps(max((entry.steps for entry in comparison.relearning), default=0))
    return (
        f"Loss minus the base's, nats per token: forgotten, as trained; remaining, after {steps} on old text by "
        "both. Came back: share of what was forgotten, where that can be told from zero. Minus control: of what "
        "remains. [ ] are 95 % bootstrap intervals."
    )


def render_relearning(comparison: Comparison, *, width: int = WIDE) -> list[Table]:
    """The table for a terminal; none where nothing was relearned."""
    if not comparison.relearning:
        return []
    layouts = ((3, False), (1, False), (1, True))
    return [choose_table((_render(comparison, gap=gap, folded=folded) for gap, folded in layouts), width)]


def _render(comparison: Comparison, *, gap: int, folded: bool) -> Table:
    table = make_table("Relearning", RELEARNING_HEADINGS, relearning_caption(comparison), gap=gap)
    for text, entries in list_relearned(comparison):
        table.add_row(escape(text), style="bold")
        for entry in entries:
            cells = [escape(cell.replace(" [", "\n[") if folded else cell) for cell in relearning_cells(entry)]
            cells[4] = bold_if(cells[4], is_decided(entry))
            table.add_row(f"  {cells[0]}", *cells[1:])
        table.add_section()
    return table


def describe_relearning(comparison: Comparison) -> tuple[str, ...]:
    """One sentence for each text: what came back, and for whom there was nothing to come back."""
    return tuple(_describe(text, entries) for text, entries in list_relearned(comparison))


def _describe(text: str, entries: tuple[RelearnedText, ...]) -> str:
    forgot = [entry for entry in entries if entry.returned is not None]
    others = [entry.arm for entry in entries if entry.returned is None]
    if not forgot:
        return f"No arm has demonstrably forgotten {text}, so relearning it says nothing."
    shares = join_names(f"{entry.arm} {format_share(entry.returned)}" for entry in forgot)
    rest = f" For {join_names(others)} no forgetting can be told from zero." if others else ""
    steps = _count_steps(forgot[0].steps)
    return (
        f"Of what was forgotten of {text}, {steps} on old text bring back: {shares}. What comes back "
        f"so soon was not gone (spurious forgetting).{rest}"
    )


def _count_steps(count: int) -> str:
    return f"{count} step{'' if count == 1 else 's'}"
