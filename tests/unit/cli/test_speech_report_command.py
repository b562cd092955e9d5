"""`oblong speech report` and `serve` from the command line."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from oblong.cli.main import run
from tests.speech_run_builders import make_speech_run
from tests.unit.reporting.test_speech_tables import make_evaluation


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    for seed in (0, 1):
        make_speech_run(f"lora-{seed}", seed=seed).write(Path(f"runs/lora-{seed}/run.json"))
    make_speech_run("going").write(Path("runs/going.partial/run.json"))
    return tmp_path


def test_report_prints_tables_and_writes_page_and_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_evaluation(name="mine").write(Path("scores.json"))
    arguments = ["speech", "report", "runs/lora-0", "runs/lora-1/run.json", "other=runs/going", "-o", "page.html"]
    assert run([*arguments, "--png", "figures", "--transcripts", "scores.json", "--over", "steps"]) == 0
    streams = capsys.readouterr()
    rows = [line.split()[:3] for line in streams.out.splitlines() if line.strip().startswith(("lora ", "other "))]
    assert rows[:4] == [["lora", "0", "40.0"], ["lora", "1", "40.0"], ["lora", "mean", "40.0"], ["other", "0", "40.0"]]
    assert streams.out.rstrip().endswith("wrote page.html")
    assert "we want home" in Path("page.html").read_text(encoding="utf-8")
    assert {path.name for path in Path("figures").iterdir()} == {
        "word-errors-and-retention.png",
        "word-errors-and-retention.svg",
    }
    assert run(arguments) == 2
    assert "page.html exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/none"], "runs/none"),
        (["runs/lora-0", "runs/lora-0"], "two runs of the arm 'lora' have the seed 0"),
        (["a=runs/lora-0", "--transcripts", "runs/lora-0/run.json"], "SpeechEvaluation"),
    ],
)
def test_report_names_what_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["speech", "report", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not Path("speech-report.html").exists()


def test_serve_without_gradio_names_the_extra_before_it_loads_anything(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def refuse(name: str, *given: Any, **options: Any) -> Any:
        if name == "gradio":
            raise ImportError(name)
        return original(name, *given, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert run(["speech", "serve", "no-model"]) == 2
    assert "pip install 'oblong[gradio]'" in capsys.readouterr().err
