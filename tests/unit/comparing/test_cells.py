"""The matrix: which runs a recipe asks for, where they lie, and which recipes ask for nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oblong.comparing.cells import iter_cells, name_rate
from oblong.comparing.compare import make_job
from oblong.comparing.recipe import CompareRecipe, build_compare_recipe, needs_old_data
from oblong.errors import RecipeError


def build(**fields: Any) -> CompareRecipe:
    data = {
        "name": "x",
        "model": "demo",
        "output": "out",
        "budget": "8%",
        "arms": {"a": {}, "b": {"learning_rates": [1e-3, 1.5e-4]}, "c": {"learning_rate": 2e-5}},
        "control": "a",
        "seeds": [3, 4],
        "train": {"data": "t.txt", "steps": 60},
        "evaluate": {"x": {"data": "x.txt", "new_domain": True}},
    }
    return build_compare_recipe(data | fields, Path("recipe.yaml"))


def list_folders(recipe: CompareRecipe) -> list[str]:
    return [str(cell.locate(Path("out"))) for cell in iter_cells(recipe) if cell.seed == 3]


def test_every_arm_has_its_learning_rates() -> None:
    assert list_folders(build()) == ["out/a/seed-3", "out/b/lr-1.5e-04/seed-3", "out/b/lr-1e-03/seed-3", "out/c/seed-3"]
    swept = build(learning_rates=["2e-4"])  # YAML 1.1 reads a number without a point as text
    assert list_folders(swept)[0] == "out/a/lr-2e-04/seed-3"
    rates = {(cell.arm, cell.learning_rate) for cell in iter_cells(swept)}
    assert rates == {("a", 2e-4), ("b", 1.5e-4), ("b", 1e-3), ("c", 2e-5)}
    assert {cell.learning_rate for cell in iter_cells(build()) if cell.arm == "a"} == {1e-4}  # of a tuning recipe


def test_a_longer_sweep_keeps_what_a_shorter_one_has_done() -> None:
    recipes = [build(learning_rates=rates) for rates in ([2e-4], [2e-4, 1e-3])]
    jobs = [{cell: make_job(recipe, cell, 1) for cell in iter_cells(recipe)} for recipe in recipes]
    assert jobs[0].items() <= jobs[1].items()
    assert len(jobs[1]) == len(jobs[0]) + 2


def test_a_job_trains_at_its_learning_rate() -> None:
    for cell in iter_cells(build()):
        job = make_job(build(), cell, 1)
        assert job.tune is not None
        assert job.tune["learning_rate"] == cell.learning_rate == job.learning_rate
        assert job.tune["plan"] == f"out/{cell.arm}/seed-{cell.seed}.plan.yaml"


def test_names_of_learning_rates_differ_where_the_rates_do() -> None:
    assert [name_rate(rate) for rate in (2e-4, 1.5e-4, 1e-5, 0.1)] == ["2e-04", "1.5e-04", "1e-05", "1e-01"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rates": [1e-4, 0.0001]}, "learning_rates: the same learning rate is given twice"),
        ({"learning_rates": []}, "learning_rates: "),
        ({"learning_rates": [-1.0]}, "greater than 0"),
        ({"evaluate_at": [20, 60]}, "evaluate_at: 60 is not before the last step, 60, which is always evaluated"),
        ({"hopeless": {"margin": 0.2}}, "hopeless: is judged at evaluations on the way, so give evaluate_at"),
        ({"hopeless": {"margin": -1}, "evaluate_at": [2]}, "hopeless.margin"),
        ({"noise_floor": 1}, "noise_floor: needs at least 2"),
        ({"arms": {"a": {"learning_rate": 1e-4, "learning_rates": [1e-3]}}}, "give either learning_rate or"),
    ],
)
def test_mistakes_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(**fields)


def test_an_arm_is_data_free_unless_it_uses_old_data_that_the_base_did_not_generate() -> None:
    arms = {"a": {}, "replay": {"method": "replay"}, "l2": {"method": "l2_sp"}}
    for anchor, expected in (("self_generated", set()), ("bundled:english-prose", {"replay"})):
        recipe = build(arms=arms, train={"data": "t.txt", "steps": 60, "anchor": anchor})
        assert {arm for arm in arms if needs_old_data(recipe, arm)} == expected
