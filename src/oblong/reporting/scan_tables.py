"""A Scan as tables: by role, what was not measured, and its units one by one.

Rows are computed by pure functions (`list_*`), tables only format them (`render_*`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from oblong.errors import SelectionError
from oblong.records import Measures, Scan, Status, Unit
from oblong.records.scan import summarise_roles

NOTHING: Final = "-"
UNIT_FIELDS: Final = ("name", "role", "layer", "dtype", "num_parameters", "status", "eligible", "seconds")
SORTABLE: Final = (*UNIT_FIELDS, *Measures.model_fields)
ALWAYS_SHOWN: Final = ("kappa", "kappa_excess", "stable_rank")
UNRESOLVED_MARK: Final = "*"
ROLE_REMARKS: Final = (
    "null kappa: median of a Gaussian matrix of that shape",
    "excess: ln(kappa / null kappa), median of the role",
    "unresolved: the smallest singular value is below the rounding noise of the storage format: kappa is a guess",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleRow:
    """The measured units of one role; `null_kappa` and `kappa_excess` are medians."""

    role: str
    num_units: int
    shapes: tuple[tuple[int, int], ...]
    kappa_min: float
    kappa_median: float
    kappa_max: float
    null_kappa: float
    kappa_excess: float
    num_unresolved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedRow:
    """Units without measures that have the same status and role, and the reason of the first."""

    status: Status
    role: str
    num_units: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFilter:
    """Which units to show: every part that is set must hold. Layers are inclusive."""

    role: str | None = None
    first_layer: int | None = None
    last_layer: int | None = None
    status: Status | None = None

    def accepts(self, unit: Unit) -> bool:
        """Whether a unit passes."""
        if self.first_layer is not None and (unit.layer is None or unit.layer < self.first_layer):
            return False
        if self.last_layer is not None and (unit.layer is None or unit.layer > self.last_layer):
            return False
        return (self.role is None or unit.role == self.role) and (self.status is None or unit.status is self.status)


def list_role_rows(scan: Scan) -> tuple[RoleRow, ...]:
    """One row per role that has measured units, in order of first appearance."""
    return tuple(_make_role_row(role, units) for role, units in summarise_roles(scan.measured).items())


def _make_role_row(role: str, units: Sequence[Unit]) -> RoleRow:
    measures = [unit.measures for unit in units if unit.measures is not None]
    kappas = [m.kappa for m in measures]
    return RoleRow(
        role=role,
        num_units=len(units),
        shapes=tuple(Counter(unit.matrix_shape for unit in units if unit.matrix_shape)),
        kappa_min=min(kappas),
        kappa_median=median(kappas),
        kappa_max=max(kappas),
        null_kappa=median(m.null_kappa for m in measures),
        kappa_excess=median(m.kappa_excess for m in measures),
        num_unresolved=sum(not m.resolved for m in measures),
    )


def list_skipped_rows(scan: Scan) -> tuple[SkippedRow, ...]:
    """Units without measures, counted by status and role, in order of first appearance."""
    groups: dict[tuple[Status, str], list[Unit]] = {}
    for unit in scan:
        if unit.measures is None:
            groups.setdefault((unit.status, unit.role), []).append(unit)
    return tuple(
        SkippedRow(status=status, role=role, num_units=len(units), reason=units[0].reason or status.explanation)
        for (status, role), units in groups.items()
    )


def list_units(units: Sequence[Unit], *, sort: str | None = None, descending: bool = False) -> tuple[Unit, ...]:
    """Units by a field, those without a value last; in checkpoint order when `sort` is None.

    Raises:
        SelectionError: no such field; the message lists them.
    """
    if sort is None:
        return tuple(units)
    if sort not in SORTABLE:
        raise SelectionError(f"no field {sort!r} to sort by; choose one of: {', '.join(SORTABLE)}")
    keyed = [(get_field(unit, sort), unit) for unit in units]
    present = sorted((pair for pair in keyed if pair[0] is not None), key=_by_value, reverse=descending)
    return (*(unit for _, unit in present), *(unit for value, unit in keyed if value is None))


def _by_value(pair: tuple[Any, Unit]) -> Any:
    return pair[0]


def get_field(unit: Unit, field: str) -> Any:
    """A unit's own field, or one of its measures; None where there are none."""
    return getattr(unit, field) if field in UNIT_FIELDS else getattr(unit.measures, field, None)


def list_extremes(units: Sequence[Unit], field: str, number: int, *, highest: bool) -> tuple[Unit, ...]:
    """The `number` units with the highest or lowest value of a field; units without a value are left out."""
    return tuple(u for u in list_units(units, sort=field, descending=highest) if get_field(u, field) is not None)[
        :number
    ]


def render_roles(scan: Scan) -> RenderableType:
    """The measured units by role; fits 80 columns."""
    table = new_table("by role")
    table.add_column("role", no_wrap=True)
    table.add_column("units", justify="right", no_wrap=True)
    table.add_column("shape", no_wrap=True)
    for heading in ("kappa\nmin", "\nmedian", "\nmax", "null\nkappa", "\nexcess", "unre-\nsolved"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in list_role_rows(scan):
        numbers = (row.kappa_min, row.kappa_median, row.kappa_max, row.null_kappa)
        table.add_row(
            row.role,
            str(row.num_units),
            _format_shapes(row.shapes),
            *(format_number(value) for value in numbers),
            f"{row.kappa_excess:+.2f}",
            str(row.num_unresolved or NOTHING),
        )
    return _add_remarks(table, ROLE_REMARKS)


def render_skipped(scan: Scan) -> Table | None:
    """The units without measures; None when all were measured."""
    rows = list_skipped_rows(scan)
    if not rows:
        return None
    table = new_table("not measured")
    for heading in ("status", "role"):
        table.add_column(heading, no_wrap=True)
    table.add_column("units", justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for row in rows:
        table.add_row(row.status.value, row.role, str(row.num_units), escape(row.reason))
    return table


def render_units(
    units: Sequence[Unit], *, title: str, sort: str | None = None, limit: int | None = None
) -> RenderableType:
    """Units one by one, the first `limit` of them; `sort` gets a column of its own unless it has one."""
    shown = units[:limit]
    extra = () if sort is None or sort in (*ALWAYS_SHOWN, "name", "status") else (sort,)
    fields = (*(("status",) if any(unit.status is not Status.OK for unit in shown) else ()), *ALWAYS_SHOWN, *extra)
    table = new_table(title)
    table.add_column("tensor", overflow="fold")
    table.add_column("shape", no_wrap=True)
    for field in fields:
        heading = field.removeprefix("kappa_").replace("_", "\n")
        table.add_column(heading, justify="left" if field == "status" else "right", no_wrap=True)
    for unit in shown:
        cells = [_format_cell(unit, field) for field in fields]
        table.add_row(escape(unit.name), _format_shape(unit.shape), *cells)
    return _add_remarks(table, _list_remarks(shown, len(units) - len(shown)))


def _format_cell(unit: Unit, field: str) -> str:
    text = format_field(get_field(unit, field))
    return f"{text}{UNRESOLVED_MARK}" if field == "kappa" and _is_unresolved(unit) else text


def _list_remarks(shown: Sequence[Unit], num_hidden: int) -> list[str]:
    remarks = []
    if any(_is_unresolved(unit) for unit in shown):
        remarks.append(
            f"{UNRESOLVED_MARK} the rounding of the storage format hides the smallest singular value; kappa_low and "
            "kappa_high (--json) say what kappa may have been before it"
        )
    if num_hidden:
        remarks.append(f"and {num_hidden} more: --top N, --bottom N and --json show others")
    return remarks


def _is_unresolved(unit: Unit) -> bool:
    return unit.measures is not None and not unit.measures.resolved


def format_field(value: Any) -> str:
    """A cell."""
    formats: Sequence[tuple[type, Callable[[Any], str]]] = (
        (bool, lambda flag: "yes" if flag else "no"),
        (int, lambda count: f"{count:,}"),
        (float, format_number),
    )
    return next((render(value) for kind, render in formats if isinstance(value, kind)), _text(value))


def _text(value: Any) -> str:
    return NOTHING if value is None else str(value)


def format_number(value: float) -> str:
    """Three figures that matter: 4.37, 1,310, 2.4e+06."""
    if abs(value) >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _format_shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return _format_shape(shapes[0]) if len(shapes) == 1 else f"{len(shapes)} shapes"


def _format_shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def new_table(title: str) -> Table:
    """An empty table in the style of all tables of a Scan."""
    return Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _add_remarks(table: Table, remarks: Sequence[str]) -> RenderableType:
    """The table with lines below it; a caption would be squeezed into the width of the table."""
    return Group(table, *(Text(remark, style="dim") for remark in remarks))
