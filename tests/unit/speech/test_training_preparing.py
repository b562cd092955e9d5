"""What a recipe names is read and judged before models are loaded and hours are spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from oblong.errors import DataError, RecipeError
from oblong.speech.training import SpeechProgress, train_speech
from oblong.speech.training.preparing import read_inputs
from tests.training_builders import make_data, make_recipe, write_speech
from tests.transcription_builders import write_manifest

RECIPE = Path("recipe.yaml")


def find_problems(folder: Path, train: Path, evaluate: Path) -> list[str]:
    """What is wrong with a recipe on these manifests, but for models that are not there."""
    recipe = make_recipe(folder, data={"train": str(train), "evaluate": {"tones": str(evaluate)}})
    with pytest.raises(RecipeError) as caught:
        read_inputs(recipe, RECIPE)
    return [problem for problem in caught.value.problems if problem.startswith("data")]


def test_a_language_that_prompts_cannot_name_is_refused_for_training_and_for_testing(tmp_path: Path) -> None:
    known = write_speech(tmp_path, lang="yue")
    (tmp_path / "other").mkdir()
    unknown = write_speech(tmp_path / "other", lang="xx")
    mixed = write_manifest(
        tmp_path / "mixed.jsonl",
        [{"audio": "0.wav", "text": "ab", "lang": lang} for lang in ("en", "qq", "de", "qq")],
    )
    assert find_problems(tmp_path, known, known) == []
    for train, evaluate, field in ((unknown, known, "data.train.0"), (known, unknown, "data.evaluate.tones")):
        (problem,) = find_problems(tmp_path, train, evaluate)
        assert problem.startswith(f"{field}: {unknown}: field 'lang' is 'xx' in 8 of 8 utterances")
    (problem,) = find_problems(tmp_path, mixed, known)
    assert "mixed.jsonl: field 'lang' is 'qq' in 2 of 4 utterances" in problem


def test_a_word_that_is_no_language_code_is_refused_with_its_line(tmp_path: Path) -> None:
    manifest = write_speech(tmp_path, lang="klingon")
    problems = find_problems(tmp_path, manifest, manifest)
    assert len(problems) == 2
    assert all("line 1: field 'lang' is 'klingon', not a language code" in problem for problem in problems)


def test_an_empty_manifest_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n", encoding="utf-8")
    (problem,) = find_problems(tmp_path, write_speech(tmp_path), empty)
    assert problem.startswith(f"data.evaluate.tones: {empty}: the manifest is empty")


def test_a_test_set_of_which_nothing_can_be_used_is_refused_before_the_training_set_is_encoded(tmp_path: Path) -> None:
    folder = make_data(tmp_path)
    gone = write_manifest(folder / "gone.jsonl", [{"audio": "gone.wav", "text": "ab", "lang": "en"}] * 2)
    recipe = make_recipe(folder, data={"train": str(folder / "speech.jsonl"), "evaluate": {"gone": str(gone)}})
    told: list[SpeechProgress] = []
    with pytest.raises(DataError, match=r"gone\.jsonl: none of 2 utterances can be used: .*gone\.wav"):
        train_speech(recipe, on_progress=told.append)
    assert {progress.activity for progress in told} == {"encoding gone"}
