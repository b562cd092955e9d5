"""Bad requests from the command line: exit code 2, the culprit named, nothing written, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oblong.cli.main import run
from tests.tuning_builders import make_plan, save_tiny_llama, write_text

Request = Callable[[Path], list[str]]


def unknown_command(folder: Path) -> list[str]:
    return ["scam", "demo"]


def unknown_option(folder: Path) -> list[str]:
    return ["scan", "demo", "--colour", "red"]


def fetch_something_else(folder: Path) -> list[str]:
    return ["fetch", "gpt-5"]


def both_demos(folder: Path) -> list[str]:
    return ["demo", "--quick", "--full"]


def no_such_recipe(folder: Path) -> list[str]:
    return ["compare", str(folder / "gone.yaml")]


def tune_flags(folder: Path, **changes: str) -> list[str]:
    flags = {
        "model": str(folder / "model"),
        "plan": str(folder / "plan.yaml"),
        "data": str(folder / "text.jsonl"),
        "steps": "1",
        "sequence-length": "16",
        "output": str(folder / "run"),
    }
    return ["tune", *(part for name, value in (flags | changes).items() for part in (f"--{name}", value))]


def plan_for_another_model(folder: Path) -> list[str]:
    other = save_tiny_llama(folder / "other", seed=1)
    make_plan(other).write(folder / "other.yaml")
    return tune_flags(folder, plan=str(folder / "other.yaml"))


def plan_for_another_architecture(folder: Path) -> list[str]:
    other = save_tiny_llama(folder / "wide", hidden_size=64)
    make_plan(other).write(folder / "wide.yaml")
    return tune_flags(folder, plan=str(folder / "wide.yaml"))


def no_training_text(folder: Path) -> list[str]:
    (folder / "empty.txt").write_text("\n")
    return tune_flags(folder, data=str(folder / "empty.txt"))


def too_little_training_text(folder: Path) -> list[str]:
    (folder / "short.txt").write_text("ab")
    return tune_flags(folder, data=str(folder / "short.txt"))


def missing_training_text(folder: Path) -> list[str]:
    return tune_flags(folder, data=str(folder / "gone.jsonl"))


def missing_plan(folder: Path) -> list[str]:
    return tune_flags(folder, plan=str(folder / "gone.yaml"))


def missing_model(folder: Path) -> list[str]:
    return tune_flags(folder, model=str(folder / "gone"))


def steps_and_epochs(folder: Path) -> list[str]:
    return [*tune_flags(folder), "--epochs", "2"]


REQUESTS: dict[Request, str] = {
    unknown_command: "scam",
    unknown_option: "--colour",
    fetch_something_else: "'gpt-5'",
    both_demos: "--quick and --full exclude each other",
    no_such_recipe: "gone.yaml",
    plan_for_another_model: "model.layers.0.mlp.down_proj.weight",
    plan_for_another_architecture: "model.layers.0.mlp.down_proj.weight",
    no_training_text: "empty.txt: contains no text",
    too_little_training_text: "short.txt",
    missing_training_text: "gone.jsonl: no such file",
    missing_plan: "gone.yaml: no such file",
    missing_model: "gone",
    steps_and_epochs: "give either steps or epochs",
}


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.__name__)
def test_it_is_named_and_nothing_is_written(
    request_: Request, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_plan(save_tiny_llama(tmp_path / "model")).write(tmp_path / "plan.yaml")
    write_text(tmp_path / "text.jsonl")
    arguments = request_(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert run(arguments) == 2
    errors = " ".join(capsys.readouterr().err.split())
    assert REQUESTS[request_] in errors
    assert "Traceback" not in errors
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_right_request_would_have_worked(tmp_path: Path) -> None:
    make_plan(save_tiny_llama(tmp_path / "model")).write(tmp_path / "plan.yaml")
    write_text(tmp_path / "text.jsonl")
    assert run(tune_flags(tmp_path)) == 0


def test_help_of_every_command_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listing = capsys.readouterr().out
    commands = ("fetch", "scan", "show", "plan", "tune", "verify", "merge", "evaluate", "compare", "report", "demo")
    for command in commands:
        assert command in listing
        assert run([command, "--help"]) == 0
        assert f"Example: oblong {command}" in " ".join(capsys.readouterr().out.split())
