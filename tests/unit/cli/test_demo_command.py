"""`oblong demo` on a tiny model: the tables, the report, and the second call that only shows them again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import oblong.recipes
from oblong.cli.main import run
from tests.tuning_builders import TEXTS, save_tiny_llama, write_text


@pytest.fixture
def tiny_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The quick demo's recipe, with a tiny model and text in place of the real ones."""
    recipe = yaml.safe_load(oblong.recipes.recipe_path("demo-quick").read_text())
    text = str(write_text(tmp_path / "text.jsonl"))
    recipe |= {"model": str(save_tiny_llama(tmp_path / "model")), "budget": "3000p", "workers": 2, "window": 64}
    recipe |= {"stride": 64, "arms": {name: recipe["arms"][name] for name in ("kappa-lowest", "random")}}
    recipe["train"] |= {"data": text, "sequence_length": 32, "steps": 2, "warmup_steps": 1}
    for corpus in recipe["evaluate"].values():
        corpus |= {"data": text, "documents": len(TEXTS)}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(oblong.recipes, "recipe_path", lambda name: path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_demo_ends_in_tables_and_a_report(tiny_demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--quick", "-o", "out"]) == 0
    streams = capsys.readouterr()
    assert "Learned and forgotten" in streams.out
    assert streams.out.rstrip().endswith("report: out/report.html")
    finished = {file: file.stat().st_mtime_ns for file in (tiny_demo / "out").rglob("evaluation.json")}
    assert len(finished) == 3

    assert run(["demo", "--quick", "-o", "out"]) == 0
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert capsys.readouterr().out == streams.out
