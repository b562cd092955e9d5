"""A recipe's mistakes are reported all at once, each with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from oblong.comparing.recipe import read_compare_recipe
from oblong.errors import RecipeError
from oblong.recipes import recipe_path

BAD = """
name: x
model: demo
output: out
budget: 10M
arms:
  a: {criterion: kappa, order: upwards}
  b: {budgett: 3}
control: c
seeds: [0, 0]
train: {data: t.txt, steps: -1, epochs: 2, learning_rat: 1}
evaluate: {german: {data: g.txt, new_domain: true, documents: 0}}
"""


def test_every_mistake_of_a_comparison_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "compare.yaml"
    path.write_text(BAD)
    with pytest.raises(RecipeError) as caught:
        read_compare_recipe(path)
    message = str(caught.value)
    assert str(path) in message
    for place in (
        "arms.a.order: Input should be 'lowest' or 'highest'",
        "arms.b.budgett: no such option",
        "evaluate.german.documents",
        "train.steps",
        "train.learning_rat: no such option",
    ):
        assert place in message
    assert len(caught.value.problems) >= 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("control: nobody", "control: 'nobody' is none of the arms a"),
        ("seeds: [1, 1]", "the same seed is given twice"),
        ("train: {data: t.txt, steps: 1, model: m}", "model is given by the comparison itself"),
        ("evaluate: {g: {data: g.txt}}", "new_domain: true"),
        ("stride: 1000", "larger than the window"),
    ],
)
def test_contradictions_are_explained(tmp_path: Path, change: str, message: str) -> None:
    lines = {
        "name": "name: x",
        "model": "model: demo",
        "output": "output: out",
        "budget": "budget: 10M",
        "arms": "arms: {a: {}}",
        "control": "control: a",
        "train": "train: {data: t.txt, steps: 1}",
        "evaluate": "evaluate: {g: {data: g.txt, new_domain: true}}",
    }
    lines[change.split(":")[0]] = change
    path = tmp_path / "compare.yaml"
    path.write_text("\n".join(lines.values()))
    with pytest.raises(RecipeError, match=message):
        read_compare_recipe(path)


@pytest.mark.parametrize("name", ["demo", "demo-quick", "demo-full"])
def test_shipped_comparisons_are_valid_and_fair(name: str) -> None:
    recipe = read_compare_recipe(recipe_path(name))
    assert {"kappa-lowest", "kappa-highest", "random", "kappa-lowest-within-role"} <= set(recipe.arms)
    assert all(rule.budget is None and rule.learning_rate is None for rule in recipe.arms.values())
    assert recipe.arms[recipe.control].criterion == "random"


@pytest.mark.parametrize(("content", "message"), [("a: [", "not valid YAML"), ("- 1", "must be a mapping")])
def test_a_file_that_is_no_recipe(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        read_compare_recipe(path)
