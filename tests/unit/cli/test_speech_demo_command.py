"""`oblong speech demo` with tiny models: from the scan to the page, and the second call that only shows it again."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import yaml

import oblong.recipes
from oblong.cli.main import run
from oblong.records import Plan, SpeechRun
from tests.speech_builders import save_chatty_llama, save_tiny_whisper
from tests.training_builders import write_speech

command = import_module("oblong.cli.speech.demo")  # the package's attribute of this name is the function


@pytest.fixture
def tiny_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The quick demo's recipe, with tiny models, tones and text in place of the real ones."""
    recipe = yaml.safe_load(oblong.recipes.recipe_path("speech-demo-quick").read_text(encoding="utf-8"))
    save_tiny_whisper(tmp_path / "whisper")
    save_chatty_llama(tmp_path / "llama", initializer_range=0.2)
    speech = str(write_speech(tmp_path / "speech"))
    (tmp_path / "text.txt").write_text("It is a truth universally acknowledged. " * 4, encoding="utf-8")
    recipe |= {
        "encoder": str(tmp_path / "whisper"),
        "language_model": str(tmp_path / "llama"),
        "data": {"train": [speech], "evaluate": {"tones": speech}},
        "retention": {"prose": str(tmp_path / "text.txt")},
        "dtype": "float32",
        "cache": False,
        "threads": 1,
    }
    recipe |= {"batch": {"max_seconds": 4.0, "max_utterances": 4, "num_buckets": 1}, "evaluate_every": 20}
    recipe["probe_utterances"] = 8
    recipe["align"] |= {"max_steps": 160, "learning_rate": 1e-2, "gate": 0.05}
    recipe["adapt"] |= {"steps": 2}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    monkeypatch.setattr(oblong.recipes, "recipe_path", lambda name: path)
    monkeypatch.setattr(command, "BUDGET", "3000p")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    return tmp_path


def test_the_demo_ends_in_tables_transcripts_and_a_page(tiny_demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["speech", "demo", "--quick", "-o", "out"]) == 0
    output = capsys.readouterr().out
    assert output.rstrip().endswith("report: out/report.html")
    record = SpeechRun.read(Path("out/kappa-lowest/run.json"))
    plan = Plan.read(Path("out/plan.yaml"))
    assert record.arm.num_trainable == plan.totals.num_parameters
    assert [stage.num_steps for stage in record.stages][-1] == 2
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "Transcripts" in page
    assert Path("out/word-errors-and-retention.png").stat().st_size > 1000
    assert "said" in output
    assert "oblong speech serve out/kappa-lowest/best whisper-base" in output

    finished = {file: file.stat().st_mtime_ns for file in Path("out").rglob("*.json*")}
    assert run(["speech", "demo", "--quick", "-o", "out"]) == 0
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert capsys.readouterr().out == output


def test_another_recipe_is_not_mixed_in(tiny_demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = Path("out/kappa-lowest/run.json")
    (tiny_demo / "golden.json").write_bytes(
        (Path(__file__).resolve().parents[2] / "golden/records/v1/speech_run.json").read_bytes()
    )
    record.parent.mkdir(parents=True)
    record.write_bytes((tiny_demo / "golden.json").read_bytes())
    assert run(["speech", "demo", "--quick", "-o", "out"]) == 2
    assert "was made with another recipe: pass --fresh" in " ".join(capsys.readouterr().err.split())


def test_fresh_removes_what_the_demo_wrote_and_nothing_else(tmp_path: Path) -> None:
    for name in ("kappa-lowest/run.json", "kappa-lowest.partial/recipe.yaml", "plan.yaml", "scan.jsonl", "mine.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    command.forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_only_the_sets_that_are_missing_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBLONG_CACHE", str(tmp_path))
    names = ["speech:synthetic-en-train", "speech:prompts-en-train", "speech:prompts-en-test", "mine.jsonl"]
    assert command.list_missing_sets(names) == ["synthetic-en", "prompts-en"]
    (tmp_path / "speech").mkdir()
    for part in ("train", "test"):
        (tmp_path / f"speech/prompts-en-{part}.jsonl").touch()
    assert command.list_missing_sets(names) == ["synthetic-en"]


@pytest.mark.parametrize("name", ["speech-demo", "speech-demo-quick"])
def test_the_shipped_recipes_are_right(name: str) -> None:
    from oblong.speech.training import read_speech_recipe

    recipe = read_speech_recipe(oblong.recipes.recipe_path(name))
    folder = Path(recipe.output).parent
    assert Path(recipe.output).name == command.ARM
    assert recipe.adapt.arm.plan == str(folder / command.PLAN_FILE)
