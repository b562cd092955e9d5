"""A Plan as tables: its tensors, its roles, and beside its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.markup import escape
from rich.table import Table

from oblong.records import Plan, PlannedTensor

MEASURE_COLUMNS: Final[Mapping[str, str]] = {
    "kappa": "kappa",
    "kappa_excess": "excess",
    "stable_rank": "stable rank",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleRow:
    """What a Plan takes of one role; `share` is of the Plan's parameters, 0 to 1."""

    role: str
    num_tensors: int
    num_parameters: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """One Plan among several; `num_shared` counts the tensors it has in common with the first."""

    name: str
    num_tensors: int
    num_parameters: int
    share: float
    num_shared: int
    roles: str


def list_role_rows(plan: Plan) -> tuple[RoleRow, ...]:
    """One row per role, in order of the parameters taken."""
    parameters: dict[str, int] = {}
    for tensor in plan.tensors:
        parameters[tensor.role] = parameters.get(tensor.role, 0) + tensor.num_parameters
    rows = [
        RoleRow(
            role=role,
            num_tensors=plan.totals.by_role[role],
            num_parameters=number,
            share=number / plan.totals.num_parameters,
        )
        for role, number in parameters.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.num_parameters, row.role)))


def list_plan_rows(plans: Sequence[Plan]) -> tuple[PlanRow, ...]:
    """One row per Plan; overlaps are counted with the first."""
    return tuple(
        PlanRow(
            name=plan.name,
            num_tensors=plan.totals.num_tensors,
            num_parameters=plan.totals.num_parameters,
            share=plan.totals.share,
            num_shared=len(plan.tensor_names & plans[0].tensor_names),
            roles=", ".join(f"{number} {role}" for role, number in plan.totals.by_role.items()),
        )
        for plan in plans
    )


def render_tensors(plan: Plan, *, limit: int | None = None) -> Table:
    """The Plan's tensors, the first `limit` of them."""
    shown = plan.tensors[:limit]
    table = _new_table(f"plan {plan.name}: {describe_totals(plan)}")
    table.add_column("tensor", overflow="fold")
    table.add_column("shape", no_wrap=True)
    for heading in (*MEASURE_COLUMNS.values(), *_list_extra_columns(plan)):
        table.add_column(heading, justify="right")
    for tensor in shown:
        table.add_row(*_render_tensor(tensor, with_value=bool(_list_extra_columns(plan))))
    if len(shown) < len(plan.tensors):
        table.caption = f"and {len(plan.tensors) - len(shown)} more; each with its reason in the file"
        table.caption_justify = "left"
    return table


def render_roles(plan: Plan) -> Table:
    """What the Plan takes of each role."""
    table = _new_table("by role")
    table.add_column("role")
    for column in ("tensors", "parameters", "share of plan"):
        table.add_column(column, justify="right")
    for row in list_role_rows(plan):
        table.add_row(escape(row.role), str(row.num_tensors), f"{row.num_parameters:,}", f"{row.share:.1%}")
    return table


def render_plans(plans: Sequence[Plan]) -> Table:
    """A Plan beside its controls."""
    table = _new_table("the plan and its controls")
    table.add_column("plan", overflow="fold")
    for column in ("tensors", "parameters", "of model", "shared"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("roles", overflow="fold")
    for row in list_plan_rows(plans):
        table.add_row(
            escape(row.name.removeprefix(f"{plans[0].name}-")),
            str(row.num_tensors),
            f"{row.num_parameters:,}",
            f"{row.share:.2%}",
            str(row.num_shared),
            escape(row.roles),
        )
    return table


def describe_totals(plan: Plan) -> str:
    """Such as `43 tensors, 10,616,832 parameters, 7.89% of the model`."""
    totals = plan.totals
    noun = "tensor" if totals.num_tensors == 1 else "tensors"
    return f"{totals.num_tensors} {noun}, {totals.num_parameters:,} parameters, {totals.share:.2%} of the model"


def _new_table(title: str) -> Table:
    return Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))


def _list_extra_columns(plan: Plan) -> tuple[str, ...]:
    """The criterion, where it is not one of the measures that are shown anyway."""
    return () if plan.rule.criterion in MEASURE_COLUMNS else (plan.rule.criterion.replace("_", " "),)


def _render_tensor(tensor: PlannedTensor, *, with_value: bool) -> list[str]:
    values = [tensor.measures.get(name) for name in MEASURE_COLUMNS] + ([tensor.value] if with_value else [])
    numbers = ["" if value is None else _format_number(value) for value in values]
    return [escape(tensor.name), " x ".join(map(str, tensor.shape)), *numbers]


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
