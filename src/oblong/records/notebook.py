"""Records as small HTML tables, for notebooks. Everything that came from a file is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from oblong.records.comparison import Comparison
    from oblong.records.interval import Interval
    from oblong.records.plan import Plan
    from oblong.records.scan import Unit

MAX_TENSORS_SHOWN: Final = 10
MAX_SHAPES_SHOWN: Final = 2
ROLE_HEADERS: Final = (
    *("role", "units", "shape", "kappa min", "median", "max", "ln(kappa / null), median", "below the noise"),
)

Cell = str | int | float | None


def render_table(title: str, headers: Sequence[str], rows: Iterable[Sequence[Cell]], footer: str = "") -> str:
    """One HTML table under a title; numbers with three significant digits, right-aligned; None is a dash."""
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join(f"<tr>{''.join(_render_cell(cell) for cell in row)}</tr>" for row in rows)
    note = f"<p>{escape(footer)}</p>" if footer else ""
    return (
        f"<div><p><b>{escape(title)}</b></p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}</div>"
    )


def _render_cell(cell: Cell) -> str:
    text = "-" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell)
    align = "left" if isinstance(cell, str) else "right"
    return f'<td style="text-align: {align}">{escape(text)}</td>'


def render_units_html(title: str, units: Collection[Unit]) -> str:
    """One row per role that has measured units, and below it what was not measured."""
    roles: dict[str, list[Unit]] = {}
    for unit in units:
        if unit.measures is not None:
            roles.setdefault(unit.role, []).append(unit)
    skipped = Counter(f"{unit.status.value} {unit.role}" for unit in units if unit.measures is None)
    footer = ", ".join(f"{count} {what}" for what, count in skipped.items())
    rows = [_make_role_row(role, members) for role, members in roles.items()]
    return render_table(title, ROLE_HEADERS, rows, f"not measured: {footer}" if footer else "")


def _make_role_row(role: str, units: Sequence[Unit]) -> Sequence[Cell]:
    measures = [unit.measures for unit in units if unit.measures is not None]
    kappas = [m.kappa for m in measures]
    shapes = [f"{rows} x {columns}" for rows, columns in Counter(u.matrix_shape for u in units if u.matrix_shape)]
    more = ["..."] if len(shapes) > MAX_SHAPES_SHOWN else []
    excess = median(m.kappa_excess for m in measures)
    unresolved = sum(not m.resolved for m in measures)
    shown = ", ".join(shapes[:MAX_SHAPES_SHOWN] + more)
    return (role, len(units), shown, min(kappas), median(kappas), max(kappas), excess, unresolved)


def render_plan_html(title: str, plan: Plan) -> str:
    """The first tensors of a Plan, in its own order."""
    rows = [(t.name, t.role, t.num_parameters, t.value) for t in plan.tensors[:MAX_TENSORS_SHOWN]]
    rest = len(plan.tensors) - len(rows)
    headers = ("tensor", "role", "parameters", plan.rule.criterion)
    return render_table(title, headers, rows, f"and {rest} more" if rest else "")


def render_comparison_html(title: str, comparison: Comparison) -> str:
    """Every arm's change of loss on every corpus."""
    headers = ("arm", "data-free", "corpus", "before", "after", "change [95 %]", f"against {comparison.control} [95 %]")
    rows = [
        (
            *(c.arm, _format_yes(comparison.data_free.get(c.arm)), c.corpus, c.before, c.after),
            *(_format_interval(c.difference), _format_interval(c.against_control)),
        )
        for c in comparison.changes
    ]
    return render_table(title, headers, rows, "nats per token; positive: worse than before")


def _format_yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _format_interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
