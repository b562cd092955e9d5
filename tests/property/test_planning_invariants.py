"""What must hold of every Plan, whatever the model."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from oblong.planning import controls, inverse, random_matching_role_and_shape
from oblong.records import Plan, Scan
from tests.plan_builders import count_parameters, make_column, make_matrix, plan_with
from tests.scan_builders import make_scan

KAPPAS = st.floats(min_value=1.0, max_value=1e6).map(lambda value: round(value, 1))  # rounded: ties happen
ORDERS = st.sampled_from(["lowest", "highest"])
STRATA = st.sampled_from(["model", "role", "shape"])
CRITERIA = st.sampled_from(["kappa", "kappa_excess", "entropy_gap", "stable_rank", "depth", "random"])


@st.composite
def scans(draw: st.DrawFn) -> Scan:
    """Between 1 and 30 matrices of a few roles and shapes."""
    rows = draw(
        st.lists(
            st.tuples(KAPPAS, st.sampled_from("qkv"), st.sampled_from([3, 8, 20]), st.integers(0, 4)),
            min_size=1,
            max_size=30,
        )
    )
    units = [
        make_matrix(f"t{index}", kappa, role=role, rows=height, layer=layer)
        for index, (kappa, role, height, layer) in enumerate(rows)
    ]
    return make_scan(units)


def select_share(scan: Scan, percent: int, **rule: str) -> Plan:
    """A Plan with a budget between the smallest tensor (0 %) and everything (100 %)."""
    smallest = min(unit.num_parameters for unit in scan)
    amount = smallest + (count_parameters(scan) - smallest) * percent // 100
    return plan_with(scan, f"{amount}p", **rule)


@settings(max_examples=50, deadline=None)
@given(scans(), st.integers(0, 100), CRITERIA, ORDERS, STRATA)
def test_never_exceeds_a_budget_of_parameters(
    scan: Scan, percent: int, criterion: str, order: str, within: str
) -> None:
    plan = select_share(scan, percent, criterion=criterion, order=order, within=within)
    assert 0 < plan.totals.num_parameters <= plan.rule.budget.amount
    assert plan.totals.num_parameters == sum(tensor.num_parameters for tensor in plan.tensors)


@settings(max_examples=50, deadline=None)
@given(scans(), st.integers(1, 30), ORDERS, STRATA)
def test_spends_a_budget_of_tensors_exactly(scan: Scan, number: int, order: str, within: str) -> None:
    number = min(number, len(scan))
    plan = plan_with(scan, str(number), order=order, within=within)
    assert plan.totals.num_tensors == number == len(plan.tensor_names)


@settings(max_examples=50, deadline=None)
@given(scans(), st.integers(0, 100), CRITERIA, ORDERS, STRATA, st.randoms(use_true_random=False))
def test_does_not_depend_on_the_order_of_the_scan(
    scan: Scan, percent: int, criterion: str, order: str, within: str, generator: random.Random
) -> None:
    shuffled = list(scan.units)
    generator.shuffle(shuffled)
    first = select_share(scan, percent, criterion=criterion, order=order, within=within)
    second = select_share(make_scan(shuffled), percent, criterion=criterion, order=order, within=within)
    assert first.tensors == second.tensors


@settings(max_examples=50, deadline=None)
@given(st.lists(KAPPAS, min_size=2, max_size=40), st.data())
def test_the_two_ends_are_disjoint_up_to_half(kappas: list[float], data: st.DataObject) -> None:
    scan = make_column(kappas)
    number = str(data.draw(st.integers(1, len(kappas) // 2)))
    lowest, highest = (plan_with(scan, number, order=order) for order in ("lowest", "highest"))
    assert not lowest.tensor_names & highest.tensor_names
    assert max(tensor.value or 0 for tensor in lowest.tensors) <= min(tensor.value or 0 for tensor in highest.tensors)


@settings(max_examples=50, deadline=None)
@given(scans(), st.integers(1, 50), STRATA)
def test_the_inverse_never_takes_more_and_is_disjoint_up_to_half_of_a_stratum(
    scan: Scan, percent: int, within: str
) -> None:
    plan = select_share(scan, percent, within=within)
    other = inverse(plan, scan)
    assert other.totals.num_parameters <= plan.totals.num_parameters
    if within == "model" and 2 * plan.totals.num_parameters <= count_parameters(scan):
        assert not plan.tensor_names & other.tensor_names


@settings(max_examples=50, deadline=None)
@given(scans(), st.integers(0, 100), STRATA)
def test_every_planned_tensor_exists_once_as_it_is(scan: Scan, percent: int, within: str) -> None:
    plan = select_share(scan, percent, within=within)
    for one in (plan, *controls(plan, scan, [0])):
        assert len(one.tensor_names) == len(one.tensors)
        assert all(scan[tensor.name].shape == tensor.shape for tensor in one.tensors)
        assert all(scan[tensor.name].digest == tensor.digest for tensor in one.tensors)


@settings(max_examples=50, deadline=None)
@given(scans(), st.integers(0, 100), STRATA, st.integers(0, 1000))
def test_the_stratified_control_matches_exactly(scan: Scan, percent: int, within: str, seed: int) -> None:
    plan = select_share(scan, percent, within=within)
    control = random_matching_role_and_shape(plan, scan, seed)
    kinds = [Counter((tensor.role, tensor.shape) for tensor in one.tensors) for one in (plan, control)]
    assert kinds[0] == kinds[1]
    assert control.tensors == random_matching_role_and_shape(plan, scan, seed).tensors
