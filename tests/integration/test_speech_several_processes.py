"""A speech training in two processes is that of one, up to rounding; killed, it goes on; mistakes are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oblong.records import SpeechRun, SpeechRunStatus, SpeechStage
from oblong.speech.training import train_speech
from tests.several_processes import run_together
from tests.training_builders import make_data, make_recipe

# float32 sums in another order, through six steps of AdamW; the largest found were 1e-7 and 2e-6.
LOSS_TOLERANCE = 1e-5
WEIGHT_TOLERANCE = 1e-4

# Of 0.3 to 0.65 s each: batches of one, where a process has no share, of two, and of three.
BATCH = {"max_seconds": 1.0, "max_utterances": 4, "num_buckets": 1}
TWO_STAGES = {
    "spell": {"epochs": 1, "masking": {"time_share": 0.3, "time_length": 2}},
    "align": {"max_steps": 4, "gate": 0.9, "learning_rate": 1e-2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and an aligned adaptor that stage B starts from."""
    folder = make_data(tmp_path_factory.mktemp("several"))
    align = {"max_steps": 200, "gate": 0.2, "learning_rate": 1e-2}
    adapt = {"arm": {"adaptor_only": True}, "steps": 1}
    first = make_recipe(
        folder, output=str(folder / "first"), align=align, adapt=adapt, evaluate_every=40, save_every=1000
    )
    assert train_speech(first).status is SpeechRunStatus.COMPLETED
    return folder


def make_job(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Stage B in small batches, from the aligned adaptor."""
    fields = {"align": {"start_from": str(folder / "first")}, "batch": BATCH, "output": str(folder / name)} | changes
    data: dict[str, Any] = make_recipe(folder, **fields).model_dump(mode="json")
    return data


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> list[list[str]]:
    """What each of two processes says of all jobs that can share a launch."""
    return run_together(
        folder,
        [
            make_job(folder, "two-aligned", **TWO_STAGES),
            make_job(folder, "two-adapted"),
            make_job(folder, "two-sharded", shard_frozen=True),
            make_job(folder, "too-many", batch=BATCH | {"max_utterances": 1}),
            make_job(folder, "no-model") | {"others": {"language_model": "no-such-model"}},
            make_job(folder, "no-disk") | {"others": {"output": str(folder / "elsewhere")}},
            make_job(folder, "killed-adapted") | {"kill": ["training", 5]},
        ],
    )


def read_run(folder: Path, name: str) -> SpeechRun:
    return SpeechRun.read(folder / name / "run.json")


def require_same_training(folder: Path, ours: str, alone: str, files: list[str]) -> None:
    """Points, loss curves and weights of two runs agree within the tolerances."""
    run, other = read_run(folder, ours), read_run(folder, alone)
    assert [(point.stage, point.step) for point in run.points] == [(point.stage, point.step) for point in other.points]
    for point, expected in zip(run.points, other.points, strict=True):
        # There is no training loss before the first step.
        assert point.loss == (None if expected.loss is None else pytest.approx(expected.loss, rel=LOSS_TOLERANCE))
        assert point.alignment.loss == pytest.approx(expected.alignment.loss, rel=LOSS_TOLERANCE)
        assert point.alignment_gap == expected.alignment_gap
        assert point.wer == expected.wer
        assert point.num_utterances == expected.num_utterances
        for text, retention in expected.retention.items():
            assert point.retention[text].loss == pytest.approx(retention.loss, rel=LOSS_TOLERANCE)
    for stage, like in zip(run.stages, other.stages, strict=True):
        assert stage.num_tokens == like.num_tokens
        for step, same in zip(stage.history, like.history, strict=True):
            assert (step.loss, step.gradient_norm) == pytest.approx(
                (same.loss, same.gradient_norm), rel=10 * LOSS_TOLERANCE
            )
    assert (run.status, run.base_retention) == (other.status, other.base_retention)
    assert (run.train, run.evaluate) == (other.train, other.evaluate)
    assert run.best == other.best or (
        run.best is not None and other.best is not None and run.best.wer == other.best.wer
    )
    for file in files:
        weights, expected_weights = load_file(folder / ours / file), load_file(folder / alone / file)
        assert weights.keys() == expected_weights.keys()
        for name, tensor in expected_weights.items():
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=WEIGHT_TOLERANCE)


def test_two_processes_spell_and_align_as_one(folder: Path, outcomes: list[list[str]]) -> None:
    assert [said[0] for said in outcomes] == ["ok", "ok"]
    alone = train_speech(make_recipe(folder, **make_job(folder, "one-aligned", **TWO_STAGES)))
    assert [stage.stage for stage in alone.stages] == [SpeechStage.SPELL, SpeechStage.ALIGN]
    require_same_training(folder, "two-aligned", "one-aligned", ["last/adaptor.safetensors"])


def test_two_processes_adapt_as_one_whole_or_sharded(folder: Path, outcomes: list[list[str]]) -> None:
    assert [said[1:3] for said in outcomes] == [["ok", "ok"], ["ok", "ok"]]
    train_speech(make_recipe(folder, **make_job(folder, "one-adapted")))
    for ours in ("two-adapted", "two-sharded"):
        files = [f"{place}/{name}.safetensors" for place in ("last", "best") for name in ("adaptor", "trained")]
        require_same_training(folder, ours, "one-adapted", files)
        assert not (folder / f"{ours}.partial").exists()


def test_only_the_first_process_says_what_is_refused(outcomes: list[list[str]]) -> None:
    first, other = outcomes
    assert all(said.startswith("OtherProcessError") for said in other[3:])
    assert first[3].startswith("UserError: 2 processes share each batch, and batch.max_utterances is 1: raise it to 2")
    assert first[4].startswith("UserError: process 1 of 2, on ")
    assert "language_model: " in first[4]
    assert "no-such-model" in first[4]
    assert "all processes of a training must see the same output" in first[5]


@pytest.mark.usefixtures("outcomes")
def test_killed_processes_go_on_in_the_same_bits(folder: Path) -> None:
    assert (folder / "killed-adapted.partial").exists()
    sharded = make_job(folder, "killed-sharded", shard_frozen=True)
    resumed = run_together(folder, [make_job(folder, "killed-adapted"), sharded | {"kill": ["training", 5]}])
    assert [said[0] for said in resumed] == ["ok", "ok"]
    assert (folder / "killed-sharded.partial").exists()
    assert run_together(folder, [sharded]) == [["ok"], ["ok"]]
    for way in ("adapted", "sharded"):
        for file in ("last/adaptor", "last/trained", "best/trained"):
            ours, theirs = (load_file(folder / f"{name}-{way}" / f"{file}.safetensors") for name in ("killed", "two"))
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        killed, whole = read_run(folder, f"killed-{way}"), read_run(folder, f"two-{way}")
        assert [stage.history for stage in killed.stages] == [stage.history for stage in whole.stages]
