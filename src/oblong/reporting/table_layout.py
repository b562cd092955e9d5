"""The look that all tables share: for a terminal (Rich) and in GitHub Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDE_GAP: Final = 3
UNLIMITED: Final = 10_000  # columns, more than any table needs


def make_table(title: str, headings: Sequence[str], caption: str, *, gap: int = WIDE_GAP) -> Table:
    """An empty table; the first column is text and never wrapped, the others are set to the right.

    Args:
        title: above it.
        headings: of the columns.
        caption: below it.
        gap: spaces between columns, 1 to 3; where there are fewer than 3 the words of a heading stand on lines of
            their own.
    """
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.padding = (0, gap - 1, 0, 0)
    for index, heading in enumerate(headings):
        stacked = heading.replace(" ", "\n").replace("hypervolume", "hyper-\nvolume") if gap < WIDE_GAP else heading
        text = stacked.replace("data-free", "data-\nfree")
        table.add_column(text, justify="right" if index else "left", overflow="fold", no_wrap=not index)
    return table


def choose_table(candidates: Iterable[Table], width: int) -> Table:
    """The first table that needs no more than so many columns, or the last one, whose cells are then folded."""
    console = Console(width=UNLIMITED)
    for table in candidates:
        if Measurement.get(console, console.options, table).maximum <= width:
            return table
    return table


def fold_cell(text: str) -> str:
    """A cell for a narrow table: an interval stands under its mean, and what came after under what was before."""
    return text.replace(" [", "\n[").replace("→ ", "→\n")


def bold_if(text: str, condition: bool) -> str:
    """Rich markup."""
    return f"[bold]{text}[/bold]" if condition else text


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of escaped cells as a table."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (headings, rule, *rows))


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{character}" if character in "\\`*_|[]<>" else character for character in text)
