from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from oblong.checkpoints.locate import cache_dir
from oblong.errors import RecipeError
from oblong.recipes import recipe_path
from oblong.speech.training.recipe import (
    AdaptRecipe,
    apply_settings,
    count_warmup,
    read_speech_recipe,
    resolve_manifest,
)

MINIMAL: dict[str, Any] = {
    "encoder": "whisper-base",
    "language_model": "demo",
    "output": "run",
    "data": {"train": "a.jsonl", "evaluate": {"human": "b.jsonl"}},
    "adapt": {"arm": {"adaptor_only": True}, "steps": 10},
}


def write(path: Path, data: Any) -> Path:
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_defaults_are_complete_and_survive_writing(tmp_path: Path) -> None:
    recipe = read_speech_recipe(write(tmp_path / "recipe.yaml", MINIMAL))
    assert recipe.data.train == ("a.jsonl",)
    assert set(recipe.retention) == {"english", "code"}
    assert recipe.align_rate == 3e-4
    (tmp_path / "again.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert read_speech_recipe(tmp_path / "again.yaml") == recipe


def test_every_mistake_is_listed_with_its_place(tmp_path: Path) -> None:
    wrong = MINIMAL | {
        "seed": -1,
        "colour": "red",
        "align": {"gate": 2.0},
        "adapt": {"arm": {"adaptor_only": True, "plan": "plan.yaml"}},
    }
    with pytest.raises(RecipeError) as caught:
        read_speech_recipe(write(tmp_path / "recipe.yaml", wrong))
    text = str(caught.value)
    for part in ("seed: ", "colour: no such option", "align.gate: ", "adapt.arm: give exactly one", "adapt.steps: "):
        assert part in text


def test_settings_replace_nested_fields_and_another_arm_replaces_the_arm(tmp_path: Path) -> None:
    path = write(tmp_path / "recipe.yaml", MINIMAL)
    settings = ["adapt.steps=20", "adapt.arm.lora={rank: 4}", "stop.patience=3", "data.evaluate.german=c.jsonl"]
    recipe = read_speech_recipe(path, settings=settings)
    assert recipe.adapt.steps == 20
    assert recipe.adapt.arm.lora is not None
    assert recipe.adapt.arm.lora.rank == 4
    assert not recipe.adapt.arm.adaptor_only
    assert recipe.stop.patience == 3
    assert recipe.data.evaluate == {"human": "b.jsonl", "german": "c.jsonl"}


def test_settings_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        apply_settings(MINIMAL, ["steps", "seed=[1", "encoder.size=3"], tmp_path / "recipe.yaml")
    assert len(caught.value.problems) == 3


def test_fetched_manifests_have_short_names() -> None:
    assert resolve_manifest("speech:prompts-en-test") == cache_dir() / "speech" / "prompts-en-test.jsonl"
    assert resolve_manifest("here/a.jsonl") == Path("here/a.jsonl")


@pytest.mark.parametrize("name", sorted(path.stem for path in recipe_path("x").parent.glob("speech-*.yaml")))
def test_shipped_recipes_are_right_and_short(name: str) -> None:
    read_speech_recipe(recipe_path(name))
    lines = recipe_path(name).read_text(encoding="utf-8").splitlines()
    assert sum(not line.startswith("#") for line in lines) <= 30


@pytest.mark.parametrize(("share", "num_steps", "expected"), [(0.1, 100, 10), (0.0, 100, 1), (0.5, 1, 1), (0.9, 2, 1)])
def test_the_warm_up_has_at_least_one_step(share: float, num_steps: int, expected: int) -> None:
    recipe = AdaptRecipe.model_validate({"arm": {"adaptor_only": True}, "steps": num_steps, "warmup_share": share})
    assert count_warmup(recipe, num_steps) == expected


def test_a_budget_of_perplexity_without_a_text_to_watch_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "recipe.yaml", MINIMAL | {"retention": {}, "stop": {"max_perplexity_ratio": 1.1}})
    with pytest.raises(RecipeError, match=r"stop\.max_perplexity_ratio needs a text to watch"):
        read_speech_recipe(path)
    assert read_speech_recipe(path, settings=["stop.max_perplexity_ratio=null"]).retention == {}
