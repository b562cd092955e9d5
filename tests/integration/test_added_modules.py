"""Columns from the command line: tune, verify, evaluate, no merging, and a comparison of two tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from oblong.cli.main import run
from oblong.records import Comparison, Evaluation
from tests.sequence_builders import make_sequence_data
from tests.tuning_builders import make_recipe, write_text


def test_a_column_is_tuned_verified_and_evaluated_and_not_merged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, output = write_text(tmp_path / "old.jsonl", ["zebra " * 40, "quartz " * 40]), tmp_path / "run"
    recipe = make_recipe(tmp_path, plan=None, adapter={"columns": {"rank": 4}}, anchor=str(old), output=str(output))
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert run(["tune", str(tmp_path / "recipe.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "column 1, rank 4, beside the base: 514 parameters" in printed
    assert "columns for text" in printed
    assert f"--delta {output / 'delta'}" in printed
    assert "oblong merge" not in printed
    assert run(["verify", str(output)]) == 0
    assert "columns beside a base that is whole" in capsys.readouterr().out
    command = f"evaluate {tmp_path}/model --data old={old} --data text={tmp_path}/text.jsonl --window 64 --stride 64"
    assert run([*command.split(), "--delta", str(output / "delta"), "-o", str(tmp_path / "after.json")]) == 0
    printed = capsys.readouterr().out
    assert "old was answered by base 100%, text 0%" in printed
    assert "no tensor of the base changed" in printed
    assert Evaluation.read(tmp_path / "after.json").corpora["text"].answered == {"base": 0, "text": 1}
    assert run(["merge", str(output), "-o", str(tmp_path / "merged")]) == 2
    assert "more modules than its architecture has" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "merged").exists()


def test_an_expert_without_old_data_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_recipe(tmp_path)
    command = f"tune --model {tmp_path}/model --data {tmp_path}/text.jsonl --adapter experts --steps 1"
    assert run([*command.split(), "-o", str(tmp_path / "run")]) == 2
    assert "give anchor, for example `anchor: self_generated`" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("run*"))


def test_a_sequence_is_compared_told_and_untold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"columns": {"adapter": "columns"}, "experts": {"adapter": {"experts": {"rank": 2}}}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(make_sequence_data(tmp_path, arms=arms, control="columns")))
    assert run(["compare", str(recipe)]) == 0
    assert "What the sequence comes to" in capsys.readouterr().out
    comparison = Comparison.read(tmp_path / "out" / "comparison.json")
    assert comparison.sequence is not None
    ways = [(arm.arm, arm.told) for arm in comparison.sequence.arms]
    assert ways == [("columns", False), ("columns", True), ("experts", False), ("experts", True)]
    assert [len(arm.losses[0]) for arm in comparison.sequence.arms] == [2, 2, 2, 2]
