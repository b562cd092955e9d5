"""`tune` end to end on a tiny model: what is written, what is refused, and that a killed run ends the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oblong.checkpoints.delta import digest_tensor, read_delta
from oblong.errors import DataError, OutputExistsError, PlanMismatchError, RecordError, UserError, VerificationError
from oblong.records import Run, RunStatus
from oblong.tuning import tune
from oblong.tuning.recipe import TuneRecipe
from oblong.tuning.trainer import list_checkpoints, train
from tests.tuning_builders import SELECTED, make_plan, make_recipe, save_tiny_llama, write_text

CHILD = """
import sys
from pathlib import Path
from oblong.tuning import read_recipe, tune
tune(read_recipe(Path(sys.argv[1])))
"""


def history_of(run: Run) -> Any:
    return run.model_dump(include={"history", "num_steps", "num_tokens", "status"})


def stop_after(steps: int) -> Callable[[int, int, float], None]:
    def on_progress(step: int, total: int, loss: float) -> None:
        if step == steps:
            raise KeyboardInterrupt

    return on_progress


def test_a_run_holds_what_its_record_says(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    run = tune(recipe)
    output = tmp_path / "run"
    assert {path.name for path in output.iterdir()} == {"run.json", "recipe.yaml", "plan.yaml", "data.json", "delta"}
    assert Run.read(output / "run.json") == run
    assert not (tmp_path / "run.partial").exists()
    assert (run.status, run.num_steps, run.num_tokens) == (RunStatus.COMPLETED, 6, 6 * 2 * 32)
    assert [point.step for point in run.history] == [1, 2, 4, 6]
    assert run.history[-1].loss is not None
    assert run.history[0].loss is not None
    assert run.history[-1].loss < run.history[0].loss
    assert run.peak_memory_bytes > 50e6
    assert run.num_trainable < run.num_parameters


def test_the_manifest_proves_every_tensor(tmp_path: Path) -> None:
    tune(make_recipe(tmp_path))
    delta = read_delta(tmp_path / "run" / "delta")
    base = load_file(tmp_path / "model" / "model.safetensors")
    assert set(delta.manifest.changed) == set(SELECTED)
    assert set(delta.manifest.frozen) == set(base) - set(SELECTED)
    for name, digest in {**delta.manifest.changed, **delta.manifest.frozen}.items():
        assert digest.base == digest_tensor(base[name])
    for name, tensor in delta.tensors.items():
        num_moved = int((tensor != base[name]).sum())
        assert num_moved > 0
        assert delta.manifest.changed[name].fraction_moved == num_moved / tensor.numel()


def test_a_frozen_tensor_that_moves_is_never_called_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = train

    def meddle(applied: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(applied, *args, **kwargs)
        with torch.no_grad():
            applied.model.model.norm.weight[0] += 1
        return result

    monkeypatch.setattr("oblong.tuning.run.train", meddle)
    with pytest.raises(VerificationError, match=r"model\.norm\.weight: is outside the Plan, and moved"):
        tune(make_recipe(tmp_path))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "run.partial" / "delta").exists()


def test_a_finished_run_is_replaced_only_by_force_and_only_by_a_whole_one(tmp_path: Path) -> None:
    first = tune(make_recipe(tmp_path))
    with pytest.raises(OutputExistsError):
        tune(make_recipe(tmp_path, seed=1))
    with pytest.raises(KeyboardInterrupt):
        tune(make_recipe(tmp_path, seed=1), force=True, on_progress=stop_after(3))
    assert Run.read(tmp_path / "run" / "run.json") == first
    second = tune(make_recipe(tmp_path, seed=1), force=True)
    assert Run.read(tmp_path / "run" / "run.json") == second
    assert {path.name for path in tmp_path.iterdir()} == {"model", "plan.yaml", "text.jsonl", "run"}


def test_force_never_removes_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a run of oblong's"):
        tune(make_recipe(tmp_path), force=True)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


def test_an_unfinished_run_resumes_only_what_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(make_recipe(tmp_path, save_every=2), on_progress=stop_after(3))
    with pytest.raises(UserError, match=r"learning_rate was 0\.01, is 0\.5.*\n.*--fresh"):
        tune(make_recipe(tmp_path, save_every=2, learning_rate=0.5))
    write_text(tmp_path / "text.jsonl", ["something else. " * 40])
    with pytest.raises(UserError, match="the text changed"):
        tune(make_recipe(tmp_path, save_every=2))
    seen: list[int] = []
    tune(make_recipe(tmp_path, learning_rate=0.5), resume=False, on_progress=lambda step, *rest: seen.append(step))
    assert seen == [1, 2, 3, 4, 5, 6]


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    straight = tune(make_recipe(tmp_path, output=str(tmp_path / "straight")))
    recipe = make_recipe(tmp_path, save_every=2)
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, on_progress=stop_after(5))
    seen: list[int] = []
    resumed = tune(recipe, on_progress=lambda step, *rest: seen.append(step))
    assert seen == [5, 6]
    assert history_of(resumed) == history_of(straight)
    assert (tmp_path / "run/delta/delta.safetensors").read_bytes() == (
        tmp_path / "straight/delta/delta.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("place", ["run.write", "close_workspace"])
def test_killed_after_the_last_step_nothing_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    recipe = make_recipe(tmp_path, save_every=2)
    target = "oblong.records.Run.write" if place == "run.write" else "oblong.tuning.run.close_workspace"
    with monkeypatch.context() as patched:
        patched.setattr(target, interrupt)
        with pytest.raises(KeyboardInterrupt):
            tune(recipe)
    assert not (tmp_path / "run").exists()
    seen: list[int] = []
    run = tune(recipe, on_progress=lambda step, *rest: seen.append(step))
    assert seen == []
    assert Run.read(tmp_path / "run/run.json") == run
    assert read_delta(tmp_path / "run/delta").manifest.plan_digest == run.plan_digest


def test_an_output_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    def squat(step: int, total: int, loss: float) -> None:
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "other").write_text("somebody else's")

    with pytest.raises(OutputExistsError):
        tune(make_recipe(tmp_path), on_progress=squat)
    assert (tmp_path / "run" / "other").read_text() == "somebody else's"


def test_kill_minus_nine_and_resume_is_the_uninterrupted_run(tmp_path: Path) -> None:
    """A real process, killed without warning after its first checkpoint, and started again."""
    fields: dict[str, Any] = {"steps": 200, "save_every": 10, "log_every": 1}
    straight = tune(make_recipe(tmp_path, output=str(tmp_path / "straight"), **fields))
    recipe = make_recipe(tmp_path, **fields)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())

    child = start_child(tmp_path / "recipe.yaml")
    wait_for_checkpoint(tmp_path / "run.partial" / "checkpoints", child)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "run").exists()

    seen: list[int] = []
    resumed = tune(recipe, on_progress=lambda step, *rest: seen.append(step))
    assert 10 < seen[0] < 200
    assert history_of(resumed) == history_of(straight)


def start_child(recipe: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(recipe)], env=environment)


def wait_for_checkpoint(checkpoints: Path, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not list_checkpoints(checkpoints):
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_diverged_run_says_so_and_keeps_the_last_good_weights(tmp_path: Path) -> None:
    # The tied output layer: its logits overflow, where those of an inner layer are normalised away.
    names = ("model.embed_tokens.weight",)
    run = tune(make_recipe(tmp_path, names=names, learning_rate=3e37, schedule="constant"))
    assert run.status is RunStatus.DIVERGED
    assert run.num_steps < 6
    assert run.history[-1].loss is None
    assert all(torch.isfinite(tensor).all() for tensor in read_delta(tmp_path / "run/delta").tensors.values())


@pytest.mark.parametrize("content", ["", "   \n", None])
def test_no_text_is_a_data_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"text\.txt"):
        tune(make_recipe(tmp_path, data=str(path)))
    assert not (tmp_path / "run.partial").exists()


def test_a_plan_for_another_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    make_plan(save_tiny_llama(tmp_path / "other", seed=1)).write(tmp_path / "plan.yaml", force=True)
    with pytest.raises(PlanMismatchError, match="other weights"):
        tune(recipe)
    assert not (tmp_path / "run.partial").exists()
    assert tune(recipe.model_copy(update={"allow_other_weights": True})).status is RunStatus.COMPLETED


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nowhere\.yaml"):
        tune(make_recipe(tmp_path, plan=str(tmp_path / "nowhere.yaml")))


def test_a_wider_base_stays_wide(tmp_path: Path) -> None:
    """A float32 file tuned in bf16: the delta is float32, from float32 masters that started at the file's values."""
    save_tiny_llama(tmp_path / "model", dtype=torch.float32)
    tune(make_recipe(tmp_path, learning_rate=1e-5))
    delta = read_delta(tmp_path / "run/delta")
    base = load_file(tmp_path / "model/model.safetensors")
    for name, tensor in delta.tensors.items():
        assert tensor.dtype == torch.float32
        assert 0 < float((tensor - base[name]).abs().max()) < 1e-3


def test_the_threads_asked_for_are_used_and_given_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    tune(make_recipe(tmp_path, threads=3, steps=1), on_progress=lambda *args: seen.append(torch.get_num_threads()))
    assert seen == [3]
    assert torch.get_num_threads() == before


def test_recipe_of_the_run_repeats_it(tmp_path: Path) -> None:
    first = tune(make_recipe(tmp_path))
    recorded = json.loads((tmp_path / "run/run.json").read_text())["recipe"]
    again = tune(TuneRecipe.model_validate(recorded | {"output": str(tmp_path / "again")}))
    assert history_of(again) == history_of(first)
