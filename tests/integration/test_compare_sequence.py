"""A comparison of task sequences from the command line, killed in the second task of a run and taken up again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from oblong.cli.main import run
from oblong.records import Comparison
from tests.sequence_builders import make_sequence_data


def test_a_killed_sequence_goes_on_in_the_task_that_it_was_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(make_sequence_data(tmp_path)))
    kill_after_the_first_task(recipe, tmp_path / "out")
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("tasks/1/**/run.json")}
    assert len(done) == 1
    assert run(["compare", str(recipe)]) == 0
    assert {file: file.stat().st_mtime_ns for file in done} == done
    printed = capsys.readouterr().out
    assert "loud and digits were learned one after the other." in printed
    assert "What the sequence comes to" in printed
    comparison = Comparison.read(tmp_path / "out" / "comparison.json")
    assert comparison.sequence is not None
    assert [len(arm.losses[0]) for arm in comparison.sequence.arms] == [2, 2]
    assert 'id="sequence-measures"' in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def kill_after_the_first_task(recipe: Path, output: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "oblong", "compare", str(recipe)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not list(output.glob("*/seed-*/tasks/1/evaluation.json")):
        assert process.poll() is None, "the comparison ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
