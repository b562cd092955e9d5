"""Recipes: names and options are checked at once, in a user's words, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oblong.comparing.recipe import build_compare_recipe, read_compare_recipe
from oblong.errors import RecipeError
from oblong.methods import METHODS, build_method, parse_method
from oblong.methods.options import EwcOptions, L2SpOptions
from oblong.methods.protocol import Method, Sizes
from oblong.methods.registry import InSpeech
from oblong.recipes import recipe_path
from oblong.tuning.recipe import TuneRecipe, build_recipe

DATA = {"model": "demo", "plan": "p.yaml", "data": "t.txt", "output": "o", "steps": 1}


def test_every_method_is_built_from_its_defaults_and_forecasts_its_memory() -> None:
    sizes = Sizes(num_trained=1000, num_tokens=10, vocabulary=50, largest_matrix=100)
    for name, spec in METHODS.items():
        method = build_method(parse_method(name))
        assert spec.name == name
        assert spec.summary
        assert Method in type(method).__mro__
        assert method.forecast_bytes(sizes) >= 0


def test_replayed_rows_are_counted_with_what_they_keep_for_the_backward_pass() -> None:
    """2 new rows of 5 tokens bring one old row: 4 x its logits, and half of the batch's activations."""
    method = build_method(parse_method({"name": "replay", "strength": 0.5}))
    sizes = Sizes(num_trained=1000, num_tokens=10, batch_size=2, vocabulary=50, activation_bytes=6000)
    assert method.forecast_bytes(sizes) == 4 * (4 * 5 * 50) + 3000


def test_options_come_from_a_mapping_a_name_or_themselves() -> None:
    assert parse_method("l2_sp") == L2SpOptions()
    options = parse_method({"name": "ewc", "strength": 5, "fisher": "empirical"})
    assert options == EwcOptions(strength=5, fisher="empirical")
    assert parse_method(options) is options


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("elastic", "no method is called 'elastic'; there are plain, l2_sp, ewc"),
        ({"name": "ewc", "lamda": 3}, "lamda: no such option; its options are strength, update, fisher"),
        ({"name": "ewc", "strength": -1}, "strength"),
        ({"strength": 1}, "give a name and options"),
        (7, "give a name and options"),
        ({"name": "classp", "threshold": "q2"}, "quantile"),
        ({"name": "plain", "strength": 1}, "strength"),
    ],
)
def test_mistakes_are_named_with_what_there_is(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_method(data)


def test_a_tuning_recipe_holds_a_method_and_its_anchor() -> None:
    recipe = build_recipe({**DATA, "method": {"name": "ewc", "strength": 3}, "anchor": "self_generated"})
    assert recipe.method == EwcOptions(strength=3)
    assert recipe.anchor is not None
    assert recipe.anchor.sources == ("self_generated",)
    written = recipe.model_dump(mode="json")
    assert written["method"]["fisher"] == "sampled"
    assert TuneRecipe.model_validate(written) == recipe
    assert build_recipe(DATA).method is None


def test_a_tuning_recipe_reports_its_method_in_place() -> None:
    with pytest.raises(RecipeError) as caught:
        build_recipe({**DATA, "method": {"name": "ewc", "lamda": 3}})
    assert "method: ewc: lamda: no such option" in str(caught.value)


def test_a_method_that_needs_old_data_and_has_none_is_refused() -> None:
    with pytest.raises(RecipeError, match="anchor: self_generated"):
        build_recipe({**DATA, "method": "gem"})


COMPARISON: dict[str, Any] = {
    "name": "c",
    "model": "demo",
    "output": "o",
    "budget": "1M",
    "control": "random",
    "train": {"data": "t.txt", "steps": 1},
    "evaluate": {"new": {"data": "n.txt", "new_domain": True}},
}


def test_arms_of_a_comparison_have_methods_of_their_own() -> None:
    arms = {"random": {"criterion": "random"}, "l2": {"criterion": "random", "method": {"name": "l2_sp"}}}
    recipe = build_compare_recipe({**COMPARISON, "arms": arms}, Path("c.yaml"))
    assert recipe.arms["l2"].method == L2SpOptions()
    assert recipe.arms["random"].method is None
    needy = {**arms, "ewc": {"criterion": "random", "method": "ewc"}}
    with pytest.raises(RecipeError, match="the method of ewc needs"):
        build_compare_recipe({**COMPARISON, "arms": needy}, Path("c.yaml"))
    with_anchor = {**COMPARISON, "arms": needy, "train": {**COMPARISON["train"], "anchor": "self_generated"}}
    assert build_compare_recipe(with_anchor, Path("c.yaml")).arms["ewc"].method == EwcOptions()


def test_the_shipped_comparison_of_methods_differs_in_methods_alone() -> None:
    recipe = read_compare_recipe(recipe_path("forgetting"))
    rules = {
        rule.model_copy(update={"method": None, "learning_rate": None, "learning_rates": None}).model_dump_json()
        for rule in recipe.arms.values()
        if rule.adapter is None
    }
    assert len(rules) == 1
    assert recipe.arms[recipe.control].method is None
    assert len({rule.method.name for rule in recipe.arms.values() if rule.method}) == 9
    assert {rule.adapter.kind for rule in recipe.arms.values() if rule.adapter} == {"lora", "full"}
    assert recipe.learning_rates is not None
    swept = {len(rule.learning_rates) for rule in recipe.arms.values() if rule.learning_rates}
    assert swept == {len(recipe.learning_rates)}  # equal effort for every arm


def test_the_reference_lists_every_method_once_and_no_other() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/methods.md").read_text(encoding="utf-8")
    table = page.partition("| `name` |")[2].partition("\n\n")[0]
    listed = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(METHODS)


def test_the_reference_says_what_each_method_acts_on_in_speech() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/methods.md").read_text(encoding="utf-8")
    table = page.partition("| `name` |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| `")]
    words = {
        InSpeech.TENSORS: "yes",
        InSpeech.REPLAY: "old text beside it",
        InSpeech.COMPARISON: "old text, or transcripts",
        InSpeech.TRANSCRIPTS: "transcripts",
        InSpeech.NOTHING: "no",
    }
    said = {cells[0].strip("`"): cells[-1].partition(":")[0] for cells in rows}
    assert said == {name: words[spec.in_speech] for name, spec in METHODS.items()}
    assert {name for name, spec in METHODS.items() if spec.not_in_speech} == {
        name for name, spec in METHODS.items() if spec.in_speech is InSpeech.NOTHING
    }


def test_the_command_line_names_a_method_and_its_old_data() -> None:
    from oblong.cli.tune import resolve_recipe

    given = {**DATA, "recipe": None, "method": "ewc", "anchor": "bundled:english-prose"}
    recipe = resolve_recipe(given)
    assert recipe.method == EwcOptions()
    assert recipe.anchor is not None
    assert recipe.anchor.sources == ("bundled:english-prose",)


def test_options_and_registry_need_no_torch() -> None:
    code = "import sys, oblong.methods, oblong.tuning.recipe; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False"]
