from __future__ import annotations

from collections import Counter

import pytest

from oblong.errors import PlanMismatchError
from oblong.planning import controls, inverse, random_matching_parameters, random_matching_role_and_shape
from oblong.records import Plan
from tests.plan_builders import make_column, make_matrix, names_of, plan_with
from tests.scan_builders import make_scan


def count_kinds(plan: Plan) -> Counter[tuple[str, tuple[int, ...]]]:
    return Counter((tensor.role, tensor.shape) for tensor in plan.tensors)


def test_all_controls_in_order_with_their_names() -> None:
    scan = make_scan()
    plan = plan_with(scan, "8%")
    assert [control.name for control in controls(plan, scan, [0, 3])] == [
        "kappa-lowest-inverse",
        "kappa-lowest-random-parameters-s0",
        "kappa-lowest-random-role-shape-s0",
        "kappa-lowest-random-parameters-s3",
        "kappa-lowest-random-role-shape-s3",
    ]


def test_the_inverse_takes_as_many_parameters_from_the_other_end() -> None:
    scan = make_scan()
    for within in ("model", "role", "shape"):
        plan = plan_with(scan, "8%", within=within)
        other = inverse(plan, scan)
        assert other.rule.order == "highest"
        assert other.totals.num_parameters == plan.totals.num_parameters
        assert not other.tensor_names & plan.tensor_names
        assert max(tensor.value or 0 for tensor in other.tensors) == max(
            unit.measures.kappa for unit in scan.eligible if unit.measures
        )


def test_the_inverse_within_role_keeps_the_number_of_each_role() -> None:
    scan = make_scan()
    plan = plan_with(scan, "20", within="role")
    assert inverse(plan, scan).totals.by_role == plan.totals.by_role


def test_the_inverse_avoids_the_plans_own_tensors_where_the_others_suffice() -> None:
    # `small` would fill the last gap of either end.
    units = [make_matrix("small", 5.0), make_matrix("low", 1.0, rows=40), make_matrix("high", 9.0, rows=40)]
    scan = make_scan([*units, make_matrix("middle", 6.0)])
    plan = plan_with(scan, "1000p")
    assert names_of(plan) == ["low", "small"]
    assert names_of(inverse(plan, scan)) == ["high", "middle"]


def test_a_plan_of_more_than_half_shares_tensors_with_its_inverse_and_says_so() -> None:
    scan = make_column([1.0, 2.0, 3.0])
    other = inverse(plan_with(scan, "2"), scan)
    assert names_of(other) == ["t2", "t1"]
    assert other.notes == ("control of kappa-lowest; 1 of its 2 tensors are also in kappa-lowest",)


def test_a_control_that_cannot_reach_the_parameters_says_so() -> None:
    scan = make_scan([make_matrix("a", 1.0, rows=30), make_matrix("b", 2.0, rows=20), make_matrix("c", 3.0, rows=20)])
    other = inverse(plan_with(scan, "1"), scan)
    assert names_of(other) == ["c"]
    assert "reaches 400 of 600 parameters, since tensors train whole" in other.notes


def test_random_by_parameters_matches_the_parameters() -> None:
    scan = make_scan()
    plan = plan_with(scan, "8%")
    for seed in range(5):
        control = random_matching_parameters(plan, scan, seed)
        assert control.totals.num_parameters == plan.totals.num_parameters
        assert control.rule.match == "parameters"
        assert control.rule.budget.amount == plan.totals.num_parameters


def test_random_by_role_and_shape_matches_both_exactly() -> None:
    scan = make_scan()
    plan = plan_with(scan, "8%")
    for seed in range(5):
        control = random_matching_role_and_shape(plan, scan, seed)
        assert count_kinds(control) == count_kinds(plan)
        assert control.totals.num_parameters == plan.totals.num_parameters


def test_random_by_role_and_shape_says_where_it_cannot_differ() -> None:
    units = [make_matrix("a", 1.0), make_matrix("b", 2.0), *(make_matrix(f"q{i}", 3.0 + i, role="q") for i in range(9))]
    scan = make_scan(units)
    plan = plan_with(scan, "4")
    control = random_matching_role_and_shape(plan, scan, 0)
    assert {"a", "b"} <= control.tensor_names
    assert "kappa-lowest has all v tensors of shape 10 x 20, so this control cannot differ there" in control.notes
    assert not any("all q tensors" in note for note in control.notes)


def test_the_same_seed_draws_the_same_and_another_seed_another() -> None:
    scan = make_scan()
    plan = plan_with(scan, "8%")
    for draw in (random_matching_parameters, random_matching_role_and_shape):
        assert draw(plan, scan, 1).tensors == draw(plan, scan, 1).tensors
        assert draw(plan, scan, 1).tensor_names != draw(plan, scan, 2).tensor_names


def test_random_draws_are_fair() -> None:
    # 2 of 8 equal tensors by 160 seeds: each is drawn 40 times on average, standard deviation sqrt(160 / 4 * 3 / 4).
    scan = make_column([float(index + 1) for index in range(8)])
    plan = plan_with(scan, "2")
    for draw in (random_matching_parameters, random_matching_role_and_shape):
        counts = Counter(name for seed in range(160) for name in draw(plan, scan, seed).tensor_names)
        assert set(counts) == {f"t{index}" for index in range(8)}
        assert all(abs(count - 40) < 4 * 5.5 for count in counts.values())


def test_a_random_plan_has_no_inverse() -> None:
    scan = make_scan()
    plan = plan_with(scan, "8%", criterion="random")
    assert [control.rule.criterion for control in controls(plan, scan, [0])] == ["random", "random"]


def test_controls_refuse_a_plan_of_another_scan() -> None:
    plan = plan_with(make_column([1.0, 2.0]), "1")
    with pytest.raises(PlanMismatchError, match="was not made from this Scan"):
        controls(plan, make_column([1.0, 3.0]))
