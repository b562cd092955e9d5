"""Recipes: all mistakes at once, options over the file, and a shipped example that is complete."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from oblong.errors import RecipeError
from oblong.recipes import recipe_path
from oblong.tuning.recipe import TuneRecipe, build_recipe, read_recipe

GOOD = {"model": "demo", "plan": "plan.yaml", "data": "text.txt", "output": "run", "steps": 5}


def test_all_mistakes_are_listed_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "learning_rat": 1, "batch_size": 0, "data": {"source": "x", "limit": -1}}))
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    problems = caught.value.problems
    assert len(problems) == 3
    assert any(problem.startswith("data.limit: ") for problem in problems)
    assert any(problem.startswith("batch_size: ") for problem in problems)
    assert "learning_rat: no such option" in problems
    assert str(path) in str(caught.value)


def test_a_missing_length_is_reported_beside_other_mistakes() -> None:
    with pytest.raises(RecipeError) as caught:
        build_recipe({**GOOD, "steps": None, "seed": -1})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["seed", "(whole file)"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "give either steps or epochs"),
        ({"epochs": 1}, "give either steps or epochs"),
        ({"warmup_steps": 6}, r"warmup_steps \(6\) is more than steps \(5\)"),
        ({"schedule": "staircase"}, "schedule"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"learning_rate": float("nan")}, "learning_rate"),
    ],
)
def test_contradictions_and_unknown_values(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_recipe(GOOD | change)


@pytest.mark.parametrize("content", ["- a list", "model: [unclosed", None])
def test_unreadable_files(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RecipeError, match="whole file"):
        read_recipe(path)


def test_options_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "seed": 3}))
    recipe = read_recipe(path, overrides={"epochs": 2.0, "data": {"limit": 7}, "seed": None})
    assert (recipe.steps, recipe.epochs, recipe.seed) == (None, 2.0, 3)
    assert (recipe.data.source, recipe.data.limit) == ("text.txt", 7)


def test_yaml_round_trip() -> None:
    recipe = build_recipe(GOOD)
    assert build_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


def test_the_shipped_recipe_is_valid_and_names_every_field() -> None:
    data = yaml.safe_load(recipe_path("tune").read_text())
    read_recipe(recipe_path("tune"))
    assert set(data) == set(TuneRecipe.model_fields) - {"epochs"}


def test_every_field_is_documented() -> None:
    assert [name for name, field in TuneRecipe.model_fields.items() if not field.description] == []
