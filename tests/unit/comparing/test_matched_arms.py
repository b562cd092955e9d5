"""Arms that draw at random what another arm chose by its rule."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from oblong.comparing.compare import describe_twins, plan_arm, plan_arms
from oblong.comparing.recipe import CompareRecipe
from oblong.records import Plan
from tests.scan_builders import make_scan


def make_recipe(arms: dict[str, dict[str, Any]]) -> CompareRecipe:
    return CompareRecipe.model_validate(
        {
            "name": "x",
            "model": "demo",
            "output": "-",
            "budget": "8%",
            "arms": {"chosen": {"within": "role"}, **arms},
            "control": "chosen",
            "seeds": [3, 4],
            "train": {},
            "evaluate": {"x": {"data": "bundled:german-test", "new_domain": True}},
        }
    )


def count_kinds(plan: Plan) -> Counter[tuple[str, tuple[int, ...]]]:
    return Counter((tensor.role, tensor.shape) for tensor in plan.tensors)


def test_a_matched_arm_has_the_roles_and_shapes_of_the_other_and_is_drawn_anew_for_each_seed() -> None:
    scan, recipe = make_scan(), make_recipe({"matched": {"matches": "chosen"}})
    chosen = plan_arm(scan, recipe, "chosen", 3)
    drawn = [plan_arm(scan, recipe, "matched", seed) for seed in recipe.seeds]
    assert all(count_kinds(plan) == count_kinds(chosen) for plan in drawn)
    assert len({plan.tensor_names for plan in (chosen, *drawn)}) == 3
    assert {plan.name for plan in drawn} == {"matched"}
    assert {plan.rule.match for plan in drawn} == {"role_and_shape"}


def test_it_can_match_parameters_only_and_keep_its_draw() -> None:
    scan = make_scan()
    recipe = make_recipe({"matched": {"matches": "chosen", "match": "parameters", "redraw": False}})
    chosen = plan_arm(scan, recipe, "chosen", 3)
    drawn = [plan_arm(scan, recipe, "matched", seed) for seed in recipe.seeds]
    assert drawn[0].tensor_names == drawn[1].tensor_names
    assert 0 <= chosen.totals.num_parameters - drawn[0].totals.num_parameters < 192 * 576


@pytest.mark.parametrize("arms", [{"a": {"matches": "b"}}, {"a": {"matches": "b"}, "b": {"matches": "chosen"}}])
def test_it_must_match_an_arm_that_chooses_for_itself(arms: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(ValidationError, match=r"arms\.a\.matches: 'b' is no arm"):
        make_recipe(arms)


def test_arms_that_do_the_same_are_named_before_they_run() -> None:
    recipe = make_recipe(
        {
            "again": {"criterion": "kappa", "within": "role", "budget": "8%"},
            "other-rate": {"within": "role", "learning_rates": [1e-4, 1e-3]},
            "other-method": {"within": "role", "method": "l2_sp"},
            "other-tensors": {"within": "role", "order": "highest"},
            "drawn": {"criterion": "random"},
            "kept": {"criterion": "random", "redraw": False},
        }
    )
    (remark,) = describe_twins(recipe, plan_arms(make_scan(), recipe))
    assert remark.startswith("arms chosen and again train the same tensors in the same way")
    one_seed = recipe.model_copy(update={"seeds": (3,)})
    assert [remark.split()[1] for remark in describe_twins(one_seed, plan_arms(make_scan(), one_seed))] == [
        "chosen",
        "drawn",
    ]
