"""A whole comparison of a tiny model: killed and taken up again it gives what an uninterrupted one gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from oblong.cli.main import run
from oblong.comparing.recipe import build_compare_recipe
from oblong.records import Comparison
from tests.tuning_builders import TEXTS, save_tiny_llama, write_text

ARMS = {"kappa-lowest": {"criterion": "kappa", "learning_rates": [0.01]}, "random": {"criterion": "random"}}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A comparison of two arms with two seeds, a few steps each."""
    save_tiny_llama(tmp_path / "model")
    write_text(tmp_path / "train.jsonl")
    write_text(tmp_path / "new.jsonl", [text.upper() for text in TEXTS])
    write_text(tmp_path / "old.jsonl", [text[::-1] for text in TEXTS])
    data = {
        "name": "tiny",
        "model": str(tmp_path / "model"),
        "output": str(tmp_path / "out"),
        "budget": "3000p",
        "arms": ARMS,
        "control": "random",
        "seeds": [0, 1],
        "evaluate_at": [2, 4],
        "train": {
            "data": str(tmp_path / "train.jsonl"),
            "steps": 6,
            "sequence_length": 32,
            "batch_size": 2,
            "learning_rate": 0.01,
            "log_every": 2,
            "save_every": 2,
        },
        "evaluate": {
            "new": {"data": str(tmp_path / "new.jsonl"), "new_domain": True, "documents": 5},
            "old": {"data": str(tmp_path / "old.jsonl"), "characters": 90},
        },
        "suite": "cities",
        "suite_limit": 4,
        "window": 64,
        "stride": 32,
        "workers": 2,
    }
    build_compare_recipe(data, Path("recipe.yaml"))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_compare_killed_and_resumed_equals_uninterrupted(recipe: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    kill_when_one_run_is_done(recipe, killed)
    done = {file: file.stat().st_mtime_ns for file in killed.rglob("evaluation.json")}
    assert done
    assert not (killed / "comparison.json").exists()
    assert run(["compare", str(recipe), "-o", str(killed)]) == 0
    assert {file: file.stat().st_mtime_ns for file in done} == done

    assert run(["compare", str(recipe), "-o", str(tmp_path / "whole")]) == 0
    first, second = (read_losses(folder / "comparison.json") for folder in (killed, tmp_path / "whole"))
    assert first == second
    assert len(first) == 4 * 2 * 3
    check_comparison(Comparison.read(tmp_path / "whole" / "comparison.json"))
    assert "Answers to questions" in (tmp_path / "whole" / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "whole" / "kappa-lowest" / "lr-1e-02" / "seed-1" / "run" / "run.json").exists()
    assert (tmp_path / "whole" / "random" / "seed-1" / "run" / "run.json").exists()


def kill_when_one_run_is_done(recipe: Path, output: Path) -> None:
    command = [sys.executable, "-m", "oblong", "compare", str(recipe), "-o", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    # No `**`: it would trip over folders that a run renames at that moment.
    while not [*output.glob("*/seed-*/evaluation.json"), *output.glob("*/lr-*/seed-*/evaluation.json")]:
        assert process.poll() is None, "the comparison ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def read_losses(file: Path) -> dict[str, float]:
    comparison = Comparison.read(file)
    return {
        f"{entry.arm} {entry.seed} {state.step} {name}": corpus.loss
        for entry in comparison.runs
        for state in entry.states
        for name, corpus in state.evaluation.corpora.items()
    }


def check_comparison(comparison: Comparison) -> None:
    """Arms share budget, text and documents; only the random arm's choice depends on the seed."""
    assert comparison.arms == tuple(ARMS)
    assert len({entry.run.data.digest for entry in comparison.runs}) == 1
    assert len({entry.run.num_tokens for entry in comparison.runs}) == 1
    digests: dict[str, set[str]] = {arm: set() for arm in ARMS}
    for entry in comparison.runs:
        digests[entry.arm].add(entry.run.plan_digest)
        assert entry.evaluation.drift is not None
        assert entry.evaluation.corpora["old"].kl is not None
        assert entry.run.num_trainable <= 3000
        assert [state.step for state in entry.states] == [2, 4, 6]
        assert entry.evaluation == entry.states[-1].evaluation
        assert len(entry.evaluation.suite["cities"].right) == 4
    assert len(digests["kappa-lowest"]) == 1
    assert len(digests["random"]) == 2
    assert [retention.corpora for retention in comparison.retention] == [("old",)]
    assert [arm.arm for arm in comparison.retention[0].arms] == list(ARMS)
    assert [(change.arm, change.num_seeds, change.num_answers) for change in comparison.answers] == [
        (arm, 2, 8) for arm in ARMS
    ]
    for change in comparison.changes:
        assert (change.against_control is None) == (change.arm == "random")


def test_json_output_is_one_document(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = yaml.safe_load(recipe.read_text())
    data |= {"seeds": [0], "arms": {"random": {"criterion": "random"}}}
    recipe.write_text(yaml.safe_dump(data))
    assert run(["compare", str(recipe), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "oblong.comparison"
