from __future__ import annotations

import pytest

from oblong.errors import SelectionError
from oblong.planning import find_unresolved, make_rule, select
from oblong.planning.reasons import format_ordinal
from oblong.records import Status
from tests.plan_builders import make_column, make_matrix, make_part, names_of, plan_with
from tests.scan_builders import make_scan, make_unit


def test_lowest_and_highest_are_the_two_ends() -> None:
    scan = make_column([9.0, 3.0, 7.0, 5.0])
    assert names_of(plan_with(scan, "2")) == ["t1", "t3"]
    assert names_of(plan_with(scan, "2", order="highest")) == ["t0", "t2"]


def test_ties_are_broken_by_name_and_the_two_ends_still_differ() -> None:
    scan = make_column([5.0, 5.0, 5.0, 5.0])
    assert names_of(plan_with(scan, "2")) == ["t0", "t1"]
    assert names_of(plan_with(scan, "2", order="highest")) == ["t3", "t2"]


def test_a_tensor_that_does_not_fit_is_passed_over_and_noted() -> None:
    scan = make_scan([make_matrix("a", 1.0), make_matrix("big", 2.0, rows=100), make_matrix("c", 3.0)])
    plan = plan_with(scan, "500p")
    assert names_of(plan) == ["a", "c"]
    assert plan.totals.num_parameters == 400
    assert plan.notes == ("passed over because they did not fit in what was left of the budget: 1, such as big",)


def test_every_role_gets_its_share_of_the_parameters() -> None:
    # 4 q of 400 and 8 v of 200 parameters: half each. 1600 parameters are 800 + 800: 2 q and 4 v.
    units = [make_matrix(f"q{index}", 10.0 + index, role="q", rows=20) for index in range(4)]
    units += [make_matrix(f"v{index}", 1.0 + index) for index in range(8)]
    plan = plan_with(make_scan(units), "1600p", within="role")
    assert names_of(plan) == ["q0", "q1", "v0", "v1", "v2", "v3"]
    assert plan.totals.by_role == {"q": 2, "v": 4}


def test_remainders_go_to_the_stratum_that_came_closest() -> None:
    # Shares of 700: q 350 of 400 (0.875 of its next tensor), v 350 (one tensor, then 0.75 of the next).
    # 500 are left after the first pass: q's tensor fits, then v's second does not fit in the 100 that remain.
    units = [make_matrix(f"q{index}", 10.0 + index, role="q", rows=20) for index in range(4)]
    units += [make_matrix(f"v{index}", 1.0 + index) for index in range(8)]
    plan = plan_with(make_scan(units), "700p", within="role")
    assert names_of(plan) == ["q0", "v0"]


def test_within_shape_ranks_equal_shapes_together() -> None:
    units = [make_matrix("a", 1.0, role="q"), make_matrix("b", 2.0, role="v"), make_matrix("c", 9.0, rows=30)]
    plan = plan_with(make_scan(units), "2", within="shape")
    assert names_of(plan) == ["a", "c"]
    assert plan.tensors[0].reason == "lowest kappa of 2 tensors of shape 10 x 20: 1 (null 5)"


def test_reasons_are_plain_language() -> None:
    plan = plan_with(make_column([9.0, 3.0, 4.1]), "3", within="role")
    assert [tensor.reason for tensor in plan.tensors] == [
        "lowest kappa of 3 v tensors: 3 (null 5)",
        "2nd lowest kappa of 3 v tensors: 4.1 (null 5)",
        "3rd lowest kappa of 3 v tensors: 9 (null 5)",
    ]
    drawn = plan_with(make_column([9.0]), "1", criterion="random", seed=4)
    assert drawn.tensors[0].reason == "drawn at random (seed 4), place 1 of 1 tensors"
    deep = plan_with(make_scan([make_matrix("a", 2.0, layer=7)]), "1", criterion="depth", order="highest")
    assert deep.tensors[0].reason == "highest depth of 1 tensors: layer 7"


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (22, "22nd")]
)
def test_ordinals(number: int, text: str) -> None:
    assert format_ordinal(number) == text


def test_unresolved_measures_are_named_in_the_reason() -> None:
    unit = make_unit("w", role="v", shape=(10, 20), kappa=30.0, null_kappa=5.0, resolved=False)
    scan = make_scan([unit])
    plan = plan_with(scan, "1")
    assert plan.tensors[0].reason.endswith("; kappa not resolved by BF16 storage: [10, no upper limit]")
    assert find_unresolved(plan, scan) == {"w"}
    by_stable_rank = plan_with(scan, "1", criterion="stable_rank")
    assert "resolved" not in by_stable_rank.tensors[0].reason
    assert find_unresolved(by_stable_rank, scan) == frozenset()


def test_rank_deficiency_is_named_in_the_reason() -> None:
    unit = make_unit("w", role="v", shape=(10, 20), kappa=30.0, null_kappa=5.0, status=Status.RANK_DEFICIENT)
    assert plan_with(make_scan([unit]), "1").tensors[0].reason.endswith("rank deficient: 10 non-zero singular values")


def test_a_fused_tensor_is_planned_whole_by_the_median_of_its_parts() -> None:
    sizes = {"q": 30, "k": 10, "v": 10}
    kappas = {"q": 50.0, "k": 6.0, "v": 4.0}
    parts = [make_part("qkv", part, kappas[part], rows=rows, total_rows=50) for part, rows in sizes.items()]
    plan = plan_with(make_scan([*parts, make_matrix("other", 5.5), make_matrix("last", 70.0)]), "2")
    assert names_of(plan) == ["other", "qkv"]
    fused = plan.tensors[1]
    assert (fused.value, fused.shape, fused.num_parameters, fused.role) == (6.0, (50, 20), 1000, "k+q+v")
    assert fused.reason == "2nd lowest kappa of 3 tensors: 6; the median of its 3 parts"


def test_a_fused_tensor_with_an_unmeasured_part_says_so() -> None:
    parts = [
        make_part("experts", f"expert.{index}", kappa, rows=10, total_rows=30)
        for index, kappa in enumerate([2.0, None, 4.0])
    ]
    plan = plan_with(make_scan(parts), "1")
    assert plan.tensors[0].value == 3.0
    assert plan.tensors[0].reason.endswith("the median of the 2 measured of its 3 parts")


def test_only_eligible_tensors_unless_asked() -> None:
    embedding = make_unit("embed", role="embedding", layer=None, shape=(100, 20), kappa=1.5, null_kappa=5.0)
    scan = make_scan([embedding, make_matrix("a", 3.0)])
    assert names_of(plan_with(scan, "1")) == ["a"]
    assert names_of(plan_with(scan, "1", include_ineligible=True)) == ["embed"]


@pytest.mark.parametrize("status", [Status.TIED, Status.NON_FINITE, Status.EXCLUDED, Status.NOT_FLOAT, Status.EMPTY])
def test_what_cannot_train_is_never_chosen(status: Status) -> None:
    broken = make_unit("broken", role="v", shape=(10, 20), kappa=None, status=status)
    scan = make_scan([broken, make_matrix("a", 3.0)])
    rule = make_rule(scan, criterion="random", budget="1", include_ineligible=True)
    assert names_of(select(scan, rule)) == ["a"]
    with pytest.raises(SelectionError, match="only 1 can be chosen"):
        select(scan, make_rule(scan, criterion="random", budget="2", include_ineligible=True))


def test_broken_and_excluded_tensors_are_noted() -> None:
    broken = make_unit("broken", role="v", shape=(10, 20), kappa=None, status=Status.NON_FINITE)
    excluded = make_unit("left", role="v", shape=(10, 20), kappa=None, status=Status.EXCLUDED)
    notes = plan_with(make_scan([broken, excluded, make_matrix("a", 3.0)]), "1").notes
    assert notes == (
        "not considered: 1 tensor (left out by --include or --exclude)",
        "not considered: 1 tensor (holds NaN or infinite elements)",
    )


def test_tensors_without_a_value_are_noted() -> None:
    norm = make_unit("norm", role="norm", shape=(20,), kappa=None, status=Status.VECTOR)
    plan = plan_with(make_scan([norm, make_matrix("a", 3.0)]), "1", include_ineligible=True)
    assert plan.notes == ("no kappa, so not ranked: 1 tensor (vector), such as norm",)


def test_a_budget_larger_than_what_can_be_chosen_names_both_numbers() -> None:
    scan = make_column([1.0, 2.0])
    with pytest.raises(SelectionError, match=r"asks for 3 tensors, but only 2 can be chosen"):
        plan_with(scan, "3")
    with pytest.raises(SelectionError, match=r"asks for 1,000 parameters, but only 400 can be chosen"):
        plan_with(scan, "1k")


def test_a_budget_smaller_than_the_smallest_tensor_names_both_numbers() -> None:
    with pytest.raises(SelectionError, match=r"comes to 100 parameters, but the smallest .* t0, has 200"):
        plan_with(make_column([1.0, 2.0]), "100p")


def test_a_scan_without_candidates_is_refused() -> None:
    norm = make_unit("norm", role="norm", shape=(20,), kappa=None, status=Status.VECTOR)
    with pytest.raises(SelectionError, match="no eligible tensor; `oblong plan --include-ineligible`"):
        plan_with(make_scan([norm]), "1")
    with pytest.raises(SelectionError, match="no kappa, so not ranked"):
        plan_with(make_scan([norm]), "1", include_ineligible=True)


@pytest.mark.parametrize(("option", "value"), [("order", "smallest"), ("within", "layer"), ("criterion", "magic")])
def test_an_unknown_choice_is_named(option: str, value: str) -> None:
    with pytest.raises(SelectionError, match=value):
        plan_with(make_column([1.0]), "1", **{option: value})


def test_the_plan_describes_itself() -> None:
    scan = make_scan(
        [
            make_matrix("a", 3.0),
            make_matrix("b", 4.0, rows=30),
            make_unit("embed", role="embedding", shape=(100, 20), kappa=None),
        ]
    )
    plan = plan_with(scan, "1", order="highest", within="role")
    assert plan.name == "kappa-highest-within-role"
    assert plan.scan_digest == scan.digest()
    assert plan.layout_digest == scan.header.checkpoint.layout_digest
    assert plan.totals.share == 600 / 2800
    tensor = plan.tensors[0]
    assert (tensor.name, tensor.role, tensor.shape, tensor.value) == ("b", "v", (30, 20), 4.0)
    assert tensor.measures["kappa"] == 4.0
    assert set(tensor.measures) == {"kappa", "kappa_excess", "entropy_gap", "stable_rank"}
    assert select(scan, plan.rule, "mine").name == "mine"
