"""Controls of a Plan: what it must beat before its rule deserves the credit.

    inverse                 the other end of the same ranking, as many parameters in each stratum, no tensor twice
                            where the stratum is large enough
    random, by parameters   as many parameters, drawn from everything that could have been chosen
    random, by role and     as many tensors of each role and shape, drawn anew: what remains of the difference is owed
    shape                   to the ranking itself, not to which kinds of tensors it prefers

The random controls may draw tensors that the Plan has too; leaving those out would make them controls of the opposite
choice. How many they share is noted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from oblong.errors import PlanMismatchError
from oblong.planning.allocation import rank_key, rank_strata, take_fitting, weigh_by
from oblong.planning.budgets import budget_of_parameters
from oblong.planning.candidates import Candidate, Pool, collect_pool
from oblong.planning.criteria import compute_draw
from oblong.planning.reasons import format_shape
from oblong.planning.selection import Choice, assemble_plan, explain_choices
from oblong.records import Plan, Rule, Scan

OTHER_ORDER: Final[Mapping[str, str]] = {"lowest": "highest", "highest": "lowest"}
Kind = tuple[str, tuple[int, ...]]
"""Role and shape."""


def controls(plan: Plan, scan: Scan, seeds: Sequence[int] = (0,)) -> list[Plan]:
    """All controls of a Plan: the inverse, then for each seed the two random ones.

    A Plan that is itself random has no inverse worth the name, so it gets the random ones only.

    Raises:
        PlanMismatchError: the Plan was not made from this Scan.
    """
    opposite = [] if plan.rule.criterion == "random" else [inverse(plan, scan)]
    drawn = [draw(plan, scan, seed) for seed in seeds for draw in RANDOM_CONTROLS]
    return [*opposite, *drawn]


def inverse(plan: Plan, scan: Scan) -> Plan:
    """The same ranking read from its other end, with at most as many parameters in each stratum as `plan` has there.

    Raises:
        PlanMismatchError: the Plan was not made from this Scan.
    """
    check_origin(plan, scan)
    rule = plan.rule.model_copy(
        update={"order": OTHER_ORDER[plan.rule.order], "budget": budget_of_parameters(plan.totals.num_parameters)}
    )
    pool = collect_pool(scan, rule)
    strata = rank_strata(pool, rule)
    taken = [tensor for members in strata.values() for tensor in _take_from_other_end(members, plan)]
    chosen = frozenset(tensor.name for tensor in taken)
    choices = explain_choices(strata, chosen, rule)
    return _assemble_control(plan, scan, rule, choices, name=f"{plan.name}-inverse")


def random_matching_parameters(plan: Plan, scan: Scan, seed: int) -> Plan:
    """As many parameters as `plan` at most, from a random walk over everything that it could have chosen.

    Raises:
        PlanMismatchError: the Plan was not made from this Scan.
    """
    check_origin(plan, scan)
    drawn = _draw(collect_pool(scan, plan.rule), seed, "matching parameters")
    taken = take_fitting(drawn, plan.totals.num_parameters, weigh_by("parameters"))
    reason = f"drawn at random (seed {seed}) from {len(drawn)} tensors"
    rule = _random_rule(plan, seed, match="parameters")
    choices = [Choice(tensor=tensor, reason=reason) for tensor in taken]
    return _assemble_control(plan, scan, rule, choices, name=f"{plan.name}-random-parameters-s{seed}")


def random_matching_role_and_shape(plan: Plan, scan: Scan, seed: int) -> Plan:
    """As many tensors of each role and shape as `plan` has, drawn at random.

    Raises:
        PlanMismatchError: the Plan was not made from this Scan.
    """
    check_origin(plan, scan)
    kinds: dict[Kind, list[Candidate]] = {}
    for tensor in _draw(collect_pool(scan, plan.rule), seed, "matching role and shape"):
        kinds.setdefault((tensor.role, tensor.shape), []).append(tensor)
    wanted = Counter((tensor.role, tensor.shape) for tensor in plan.tensors)
    choices = [
        Choice(tensor=tensor, reason=f"drawn at random (seed {seed}) from {len(kinds[kind])} {_describe_kind(kind)}")
        for kind, number in sorted(wanted.items())
        for tensor in kinds[kind][:number]
    ]
    exhausted = [_describe_kind(kind) for kind, number in sorted(wanted.items()) if number == len(kinds[kind])]
    notes = [f"{plan.name} has all {kind}, so this control cannot differ there" for kind in exhausted]
    rule = _random_rule(plan, seed, match="role_and_shape")
    return _assemble_control(plan, scan, rule, choices, name=f"{plan.name}-random-role-shape-s{seed}", notes=notes)


RANDOM_CONTROLS: Final = (random_matching_parameters, random_matching_role_and_shape)


def check_origin(plan: Plan, scan: Scan) -> None:
    """Refuse a Plan of another Scan.

    Raises:
        PlanMismatchError: the digests differ.
    """
    if plan.scan_digest != scan.digest():
        raise PlanMismatchError(
            f"the plan {plan.name!r} (of {plan.model}) was not made from this Scan (of {scan.header.model}): controls"
            " must be drawn from the tensors that the plan could have chosen; make the plan again from this Scan"
        )


def _assemble_control(
    plan: Plan, scan: Scan, rule: Rule, choices: Sequence[Choice], *, name: str, notes: Sequence[str] = ()
) -> Plan:
    shared = sum(choice.tensor.name in plan.tensor_names for choice in choices)
    reached = sum(choice.tensor.num_parameters for choice in choices)
    remarks = [f"control of {plan.name}; {shared} of its {len(choices)} tensors are also in {plan.name}"]
    if reached < plan.totals.num_parameters:
        remarks.append(f"reaches {reached:,} of {plan.totals.num_parameters:,} parameters, since tensors train whole")
    return assemble_plan(scan, rule, name=name, choices=choices, notes=(*remarks, *notes))


def _random_rule(plan: Plan, seed: int, *, match: str) -> Rule:
    return Rule(
        criterion="random",
        order="lowest",
        within="model",
        budget=budget_of_parameters(plan.totals.num_parameters),
        seed=seed,
        match=match,
        include_ineligible=plan.rule.include_ineligible,
    )


def _take_from_other_end(ranked: Sequence[Candidate], plan: Plan) -> list[Candidate]:
    """As many parameters of one stratum as the Plan has there; not the Plan's own tensors while the others suffice.

    Without that care the small tensors that fill the last gap of one budget would fill that of the other too.
    """
    weigh = weigh_by("parameters")
    others = [tensor for tensor in ranked if tensor.name not in plan.tensor_names]
    num_others = sum(map(weigh, others))
    limit = sum(map(weigh, ranked)) - num_others
    return take_fitting(others if num_others >= limit else ranked, limit, weigh)


def _draw(pool: Pool, seed: int, purpose: str) -> list[Candidate]:
    """The pool in random order; each candidate's value is its draw."""
    drawn = [replace(tensor, value=compute_draw(tensor.name, seed, purpose)) for tensor in pool.candidates]
    return sorted(drawn, key=rank_key)


def _describe_kind(kind: Kind) -> str:
    role, shape = kind
    return f"{role} tensors of shape {format_shape(shape)}"
