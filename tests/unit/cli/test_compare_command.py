"""The command line of `oblong compare`: recipes by name, options in their place, and what a dry run says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oblong.cli.main import run
from oblong.corpora import read_documents
from tests.tuning_builders import write_text


def test_a_shipped_recipe_is_found_by_name_and_its_options_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert (
        run(["compare", "forgetting", "-o", str(output), "--seeds", "3,1", "--workers", "2", "--dry-run", "--json"])
        == 0
    )
    forecast = json.loads(capsys.readouterr().out)
    assert forecast["num_runs"] == forecast["num_arms"] * 3 * 2  # three learning rates, two seeds
    assert forecast["num_workers"] == 2
    assert str(output) in forecast["notes"][0]
    assert not output.exists()


def test_some_arms_of_a_recipe_with_another_control(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--arms", "wise-ft, mofo", "--control", "mofo"]
    assert run(["compare", "forgetting", "-o", str(tmp_path / "out"), *chosen, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_arms"] == 2


def test_a_text_of_ones_own_is_split_and_survives_fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = write_text(tmp_path / "mine.jsonl", [f"text number {index}" for index in range(30)])
    command = ["compare", "forgetting", "-o", str(tmp_path / "out"), "--data", str(text), "--dry-run"]
    assert run(command) == 0
    printed = capsys.readouterr()
    assert "held out and never trained on" in " ".join(printed.err.split())
    assert "0 done already" in printed.out
    assert len(read_documents(str(tmp_path / "out" / "data" / "held-out.jsonl")).texts) == 3
    (tmp_path / "out" / "finished").touch()
    assert run([*command, "--fresh"]) == 0
    assert (tmp_path / "out" / "finished").exists()  # a dry run throws nothing away


def test_fresh_throws_nothing_away_when_the_text_is_bad(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "comparison.json").write_text("{}")
    text = write_text(tmp_path / "mine.jsonl", ["one", "two"])
    assert run(["compare", "forgetting", "-o", str(output), "--data", str(text), "--fresh"]) == 2
    assert run(["compare", "forgetting", "-o", str(output), "--data", str(tmp_path / "no.jsonl"), "--fresh"]) == 2
    assert (output / "comparison.json").exists()


def test_fresh_removes_comparisons_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").touch()
    assert run(["compare", "forgetting", "-o", str(tmp_path), "--fresh"]) == 2
    assert "it is no comparison, and --fresh removes nothing else" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "no such file, and no shipped recipe; there are demo, demo-full, demo-quick, forgetting"),
        (["forgetting", "--seeds", "a"], "give whole numbers with commas between them, such as 0,1,2"),
        (["forgetting", "--seeds", "1,1"], "seeds: the same seed is given twice"),
        (["forgetting", "--arms", "lora,no"], "--arms: forgetting.yaml has no arm 'no'; its arms: plain, l2-sp"),
        (["forgetting", "--arms", "lora"], "control: 'plain' is none of the arms lora"),
        (["forgetting", "--control", "no"], "control: 'no' is none of the arms plain"),
        (["study-german", "--arms", "full,random-like-lowest"], "random-like-lowest.matches: 'kappa-lowest-in-role'"),
        (["forgetting", "--data", "missing.jsonl"], "missing.jsonl: no such file or folder"),
    ],
)
def test_bad_requests_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
