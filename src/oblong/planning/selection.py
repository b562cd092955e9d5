"""A Scan and a Rule give a Plan.

How a budget is spent over strata: oblong.planning.allocation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from oblong.errors import SelectionError
from oblong.planning.allocation import Strata, rank_strata, spend_budget
from oblong.planning.budgets import parse_budget
from oblong.planning.candidates import Candidate, Pool, collect_pool
from oblong.planning.criteria import find_criterion
from oblong.planning.reasons import describe_choice
from oblong.records import Plan, PlannedTensor, Provenance, Rule, Scan, Totals

ORDERS: Final = ("lowest", "highest")
STRATA: Final = ("model", "role", "shape")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A chosen tensor and why."""

    tensor: Candidate
    reason: str


def plan(scan: Scan, *, name: str | None = None, **request: Any) -> Plan:
    """Choose the tensors to train: `select` by the rule that `make_rule` makes of the request.

    Args:
        scan: the measured checkpoint.
        name: short name of the Plan.
        request: `criterion`, `order`, `within`, `budget`, `seed`, `include_ineligible`, as for `make_rule`.

    Raises:
        SelectionError: the request selects nothing sensible.
    """
    return select(scan, make_rule(scan, **request), name)


def make_rule(
    scan: Scan,
    *,
    criterion: str = "kappa",
    order: str = "lowest",
    within: str = "model",
    budget: str = "5%",
    seed: int = 0,
    include_ineligible: bool = False,
) -> Rule:
    """Check a request against a Scan and resolve its budget.

    Args:
        scan: what the budget's percentage refers to.
        criterion: a name in `CRITERIA`.
        order: `lowest` or `highest`.
        within: `model`, `role` or `shape`.
        budget: see `parse_budget`.
        seed: for the random criterion.
        include_ineligible: whether embeddings, heads, routers, norms and biases may be chosen.

    Raises:
        SelectionError: an unknown criterion, order or stratum, or a budget that cannot be read.
    """
    find_criterion(criterion)
    _check_choice("order", order, ORDERS)
    _check_choice("within", within, STRATA)
    return Rule(
        criterion=criterion,
        order=order,
        within=within,
        budget=parse_budget(budget, num_parameters=scan.header.checkpoint.num_parameters),
        seed=seed,
        include_ineligible=include_ineligible,
    )


def select(scan: Scan, rule: Rule, name: str | None = None) -> Plan:
    """Choose tensors by a rule.

    Args:
        scan: the measured checkpoint.
        rule: what to prefer, within what, and how much of it.
        name: short name of the Plan; default: `name_rule(rule)`.

    Returns:
        A Plan whose tensors stand in order of stratum and rank, whatever the order of the Scan.

    Raises:
        SelectionError: nothing can be ranked, or the budget is larger than all that can be chosen, or smaller than
            the smallest tensor.
    """
    pool = collect_pool(scan, rule)
    check_budget(rule, pool)
    strata = rank_strata(pool, rule)
    chosen = spend_budget(strata, rule.budget)
    choices = explain_choices(strata, chosen, rule)
    notes = (*pool.notes, *note_passed_over(strata, chosen))
    return assemble_plan(scan, rule, name=name or name_rule(rule), choices=choices, notes=notes)


def find_unresolved(plan: Plan, scan: Scan) -> frozenset[str]:
    """Names of the Plan's tensors that were chosen by a number which the rounding of their storage may have decided."""
    if not find_criterion(plan.rule.criterion).needs_resolved:
        return frozenset()
    unresolved = {unit.tensor for unit in scan if unit.measures is not None and not unit.measures.resolved}
    return plan.tensor_names & unresolved


def name_rule(rule: Rule) -> str:
    """Short name of a rule: `kappa-lowest`, `kappa-lowest-within-role`, `random-s0`."""
    stem = f"random-s{rule.seed}" if rule.criterion == "random" else f"{rule.criterion.replace('_', '-')}-{rule.order}"
    return stem if rule.within == "model" else f"{stem}-within-{rule.within}"


def check_budget(rule: Rule, pool: Pool) -> None:
    """Refuse a budget that is larger than what can be chosen, or smaller than its smallest tensor.

    Raises:
        SelectionError: naming both numbers.
    """
    budget = rule.budget
    available = len(pool.candidates) if budget.unit == "tensors" else pool.num_parameters
    if budget.amount > available:
        raise SelectionError(
            f"the budget {budget.text!r} asks for {budget.amount:,} {budget.unit}, but only {available:,} can be chosen"
            f" by {rule.criterion}{_hint(rule)}"
        )
    smallest = min(pool.candidates, key=lambda tensor: (tensor.num_parameters, tensor.name))
    if budget.unit == "parameters" and budget.amount < smallest.num_parameters:
        raise SelectionError(
            f"the budget {budget.text!r} comes to {budget.amount:,} parameters, but the smallest tensor that can be"
            f" chosen, {smallest.name}, has {smallest.num_parameters:,}: raise it, since tensors train whole"
        )


def explain_choices(strata: Strata, chosen: frozenset[str], rule: Rule) -> list[Choice]:
    """The chosen tensors by stratum and rank, with reasons."""
    return [
        Choice(tensor=tensor, reason=describe_choice(tensor, rule, rank=rank, num_ranked=len(members)))
        for members in strata.values()
        for rank, tensor in enumerate(members, 1)
        if tensor.name in chosen
    ]


def note_passed_over(strata: Strata, chosen: frozenset[str]) -> tuple[str, ...]:
    """One note if better-ranked tensors were passed over because they did not fit."""
    passed = []
    for members in strata.values():
        last = max((rank for rank, tensor in enumerate(members) if tensor.name in chosen), default=0)
        passed += [tensor.name for tensor in members[:last] if tensor.name not in chosen]
    if not passed:
        return ()
    examples = ", ".join(passed[:3])
    return (f"passed over because they did not fit in what was left of the budget: {len(passed)}, such as {examples}",)


def assemble_plan(scan: Scan, rule: Rule, *, name: str, choices: Sequence[Choice], notes: Sequence[str]) -> Plan:
    """Build the record."""
    tensors = tuple(_describe_tensor(choice) for choice in choices)
    return Plan(
        name=name,
        model=scan.header.model,
        layout_digest=scan.header.checkpoint.layout_digest,
        scan_digest=scan.digest(),
        rule=rule,
        totals=_add_up(tensors, scan.header.checkpoint.num_parameters),
        tensors=tensors,
        notes=tuple(notes),
        provenance=Provenance.here(),
    )


def _hint(rule: Rule) -> str:
    if rule.include_ineligible:
        return ": lower it"
    return (
        " in this model: lower it, or admit embeddings, heads, norms and biases with `oblong plan --include-ineligible`"
    )


def _describe_tensor(choice: Choice) -> PlannedTensor:
    tensor = choice.tensor
    return PlannedTensor(
        name=tensor.name,
        role=tensor.role,
        layer=tensor.layer,
        shape=tensor.shape,
        num_parameters=tensor.num_parameters,
        digest=tensor.digest,
        value=tensor.value,
        measures=tensor.summarise_measures(),
        reason=choice.reason,
    )


def _add_up(tensors: Sequence[PlannedTensor], num_model_parameters: int) -> Totals:
    num_parameters = sum(tensor.num_parameters for tensor in tensors)
    return Totals(
        num_tensors=len(tensors),
        num_parameters=num_parameters,
        share=num_parameters / num_model_parameters,
        by_role=dict(sorted(Counter(tensor.role for tensor in tensors).items())),
    )


def _check_choice(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise SelectionError(f"--{option} is {value!r}, but must be one of: {', '.join(known)}")
