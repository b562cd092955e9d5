from __future__ import annotations

import json
from pathlib import Path

import pytest

from oblong.cli.evaluate import split_entry
from oblong.cli.main import run
from oblong.records import Evaluation
from tests.tuning_builders import save_tiny_llama, write_text

SMALL = ["--window", "64", "--stride", "32"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    save_tiny_llama(tmp_path / "model")
    write_text(tmp_path / "text.jsonl")
    return tmp_path


def test_prints_the_table_and_writes_the_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "evaluate",
        "model",
        "--data",
        "mine=text.jsonl",
        "--data",
        "text.jsonl",
        "--limit",
        "3",
        "--new",
        "mine",
    ]
    assert run([*arguments, "--base", "model", "-o", "out.json", *SMALL]) == 0
    output = capsys.readouterr().out
    evaluation = Evaluation.read(Path("out.json"))
    assert list(evaluation.corpora) == ["mine", "text"]
    assert [len(score.documents) for score in evaluation.corpora.values()] == [3, 3]
    assert evaluation.corpora["mine"].new_domain
    assert f"{evaluation.corpora['mine'].loss:.4f} [" in output
    assert "mine (new)" in output
    assert "95% interval over documents" in output
    assert "wrote out.json" in output


def test_json_is_one_document_and_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "model", "--data", "text.jsonl", "--limit", "1", "--json", *SMALL]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "oblong.evaluation"


def test_an_existing_output_is_refused_before_any_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.json").write_text("mine")
    assert run(["evaluate", "no-such-model", "--data", "text.jsonl", "-o", "out.json"]) == 2
    assert "out.json exists already" in capsys.readouterr().err
    assert Path("out.json").read_text() == "mine"


def test_a_suite_is_answered_and_compared_with_the_base(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["--suite", "cities,arithmetic", "--limit", "5"]
    assert run(["evaluate", "model", *ask, "-o", "base.json"]) == 0
    output = capsys.readouterr().out
    assert "questions with right answers" in output
    assert "perplexity" not in output  # there is no text
    base = Evaluation.read(Path("base.json"))
    assert {task: len(score.right) for task, score in base.suite.items()} == {"cities": 5, "arithmetic": 5}
    assert run(["evaluate", "model", *ask, "--against", "base.json"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "answers of base against base" in output
    assert "Over all tasks, 0 of 10 answers were lost and 0 gained" in output


def test_answers_to_other_questions_are_not_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "model", "--suite", "cities", "--limit", "4", "-o", "base.json"]) == 0
    assert run(["evaluate", "model", "--suite", "cities", "--limit", "5", "--against", "base.json"]) == 2
    assert "cannot pair the answers to cities" in capsys.readouterr().err


def test_a_file_without_answers_is_refused_before_any_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "model", "--data", "text.jsonl", "--limit", "1", "-o", "base.json", *SMALL]) == 0
    assert run(["evaluate", "no-such-model", "--suite", "small", "--against", "base.json"]) == 2
    assert "base.json: holds no answers to a suite; make it with --suite small" in capsys.readouterr().err
    assert run(["evaluate", "no-such-model", "--data", "text.jsonl", "--against", "base.json"]) == 2
    assert "give the --suite that the file was made with" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no corpus and no suite"),
        (["--suite", " , "], "the suite names no task"),
        (["--data", "none.jsonl"], "none.jsonl"),
        (["--data", "text.jsonl", "--new", "german"], "--new 'german' is none of the corpora: text"),
        (["--data", "a=text.jsonl", "--data", "a=text.jsonl"], "the same name, 'a'"),
        (["--data", "text.jsonl", "--window", "4096"], "longer than the model's context of 128"),
        (["--data", "text.jsonl", "--window", "64", "--stride", "65"], "a stride of 65 does not fit"),
        (["--data", "text.jsonl", "--delta", "none"], "none/manifest.json"),
        (["--data", "text.jsonl", "--device", "abacus"], "unknown device 'abacus': choose one of cpu, cuda"),
    ],
)
def test_a_bad_request_names_the_mistake(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["evaluate", "model", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("german=bundled:german-test", ("german", "bundled:german-test")),
        ("bundled:german-test", (None, "bundled:german-test")),
        ("runs/lr=0.1/text.jsonl", (None, "runs/lr=0.1/text.jsonl")),
        ("name=runs/lr=0.1/text.jsonl", ("name", "runs/lr=0.1/text.jsonl")),
        ("=text.jsonl", (None, "=text.jsonl")),
    ],
)
def test_names_are_told_from_paths(entry: str, expected: tuple[str | None, str]) -> None:
    assert split_entry(entry) == expected
