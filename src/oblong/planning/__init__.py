"""Planning: a Scan and a rule give a Plan, the exact list of tensors that may train. Pure; no torch."""

from oblong.planning.budgets import parse_budget
from oblong.planning.controls import controls, inverse, random_matching_parameters, random_matching_role_and_shape
from oblong.planning.criteria import CRITERIA, Criterion, find_criterion
from oblong.planning.selection import ORDERS, STRATA, find_unresolved, make_rule, name_rule, plan, select

__all__ = [
    "CRITERIA",
    "ORDERS",
    "STRATA",
    "Criterion",
    "controls",
    "find_criterion",
    "find_unresolved",
    "inverse",
    "make_rule",
    "name_rule",
    "parse_budget",
    "plan",
    "random_matching_parameters",
    "random_matching_role_and_shape",
    "select",
]
