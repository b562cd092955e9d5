"""One unit of a Scan in the terminal: its measures, and its singular values against chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from oblong.errors import SelectionError
from oblong.records import Measures, Scan, Unit
from oblong.reporting.scan_tables import format_field, format_number, new_table
from oblong.reporting.spectrum_rows import BinRow, QuantileRow, list_bins, list_quantiles

BAR_WIDTH: Final = 36
BAR, NULL_MARK = "█", "│"
NULL_REMARK: Final = (
    f"{NULL_MARK} and `null`: a Gaussian matrix of the same shape and Frobenius norm (Marchenko-Pastur: the limit of "
    "large ones; the ends of a small one fluctuate)"
)


def find_unit(scan: Scan, name: str) -> Unit:
    """A unit by its name.

    Raises:
        SelectionError: there is none; the message names the most similar ones.
    """
    if name in scan:
        return scan.by_name[name]
    similar = get_close_matches(name, scan.by_name, cutoff=0.3) or [unit.name for unit in scan.units[:3]]
    raise SelectionError(f"this Scan has no unit {name!r}; the most similar are {', '.join(similar)}")


def render_unit(unit: Unit, values: Sequence[float] | None) -> RenderableType:
    """Everything about one unit.

    Args:
        unit: any.
        values: all singular values of a measured one, descending; None leaves that part out.
    """
    parts: list[RenderableType] = [render_measures(unit)]
    if values is not None and unit.measures is not None:
        parts += [
            render_quantiles(list_quantiles(values[: unit.measures.rank])),
            render_bins(list_bins(values, unit.matrix_shape or (1, 1))),
            Text(NULL_REMARK, style="dim"),
        ]
    return Group(*parts)


def render_measures(unit: Unit) -> Table:
    """What the Scan says, one field per line."""
    table = new_table(escape(unit.name))
    table.add_column("field", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name in Unit.model_fields:
        value = getattr(unit, name)
        if name not in ("name", "measures") and value is not None:
            table.add_row(
                name, escape(" x ".join(map(str, value)) if isinstance(value, tuple) else format_field(value))
            )
    for name in Measures.model_fields if unit.measures else ():
        table.add_row(name, escape(format_field(getattr(unit.measures, name))))
    return table


def render_quantiles(rows: Sequence[QuantileRow]) -> Table:
    """The values that a share of the non-zero ones reach."""
    table = new_table("non-zero singular values")
    for heading in ("share\nabove", "singular\nvalue", "s_1 /\nvalue"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(f"{row.share:.0%}", format_number(row.value), format_number(row.ratio))
    return table


def render_bins(rows: Sequence[BinRow]) -> Table:
    """The histogram as bars, what chance would give as a mark."""
    table = new_table("all singular values")
    for heading in ("from", "to", "values", "null"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    largest = max(max(row.count, row.expected) for row in rows)
    for row in rows:
        high = "" if math.isinf(row.high) else format_number(row.high)
        bar = draw_bar(row.count / largest, row.expected / largest)
        table.add_row(format_number(row.low), high, str(row.count), f"{row.expected:.0f}", bar)
    return table


def draw_bar(share: float, expected: float) -> str:
    """A bar of at most BAR_WIDTH characters with a mark where it was expected to end."""
    length = round(share * BAR_WIDTH)
    if share > 0:
        length = max(length, 1)
    cells = [BAR] * length + [" "] * (BAR_WIDTH + 1 - length)
    if expected > 0:
        cells[round(expected * BAR_WIDTH)] = NULL_MARK
    return "".join(cells).rstrip()
