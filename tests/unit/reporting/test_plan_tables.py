from __future__ import annotations

import io

from rich.console import Console

from oblong.planning import controls
from oblong.reporting.plan_tables import (
    RoleRow,
    describe_totals,
    list_plan_rows,
    list_role_rows,
    render_plans,
    render_tensors,
)
from tests.plan_builders import make_matrix, plan_with
from tests.scan_builders import make_scan


def test_roles_come_in_order_of_their_parameters() -> None:
    units = [make_matrix("v0", 1.0), make_matrix("v1", 2.0), make_matrix("q0", 3.0, role="q", rows=30)]
    plan = plan_with(make_scan(units), "3")
    assert list_role_rows(plan) == (
        RoleRow(role="q", num_tensors=1, num_parameters=600, share=0.6),
        RoleRow(role="v", num_tensors=2, num_parameters=400, share=0.4),
    )
    assert describe_totals(plan) == "3 tensors, 1,000 parameters, 100.00% of the model"


def test_controls_are_counted_against_the_plan() -> None:
    scan = make_scan()
    plan = plan_with(scan, "8%")
    plans = [plan, *controls(plan, scan, [0])]
    rows = list_plan_rows(plans)
    assert [row.num_shared for row in rows] == [len(plan.tensor_names & other.tensor_names) for other in plans]
    assert (rows[0].num_shared, rows[1].num_shared) == (27, 0)
    assert rows[3].roles == rows[0].roles == "6 down, 4 up, 17 v"


def test_tables_escape_names_and_say_what_they_leave_out() -> None:
    scan = make_scan([make_matrix("[bold]w[/bold]", 1.0), make_matrix("b", 2.0), make_matrix("c", 3.0)])
    plan = plan_with(scan, "3", criterion="entropy_gap_per_rank")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render_tensors(plan, limit=2))
    console.print(render_plans([plan]))
    text = console.export_text()
    assert "[bold]w[/bold]" in text
    assert "and 1 more" in text
    assert "entropy gap per rank" in text
