"""The training loop: state only for what trains, plain fine-tuning as the limit, exact resume, a stop before NaN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, Trainer, default_data_collator

from oblong.corpora import read_documents
from oblong.errors import OutputWriteError
from oblong.methods import build_method
from oblong.models.causal_lm import load_causal_lm
from oblong.models.quiet import quiet_transformers
from oblong.models.stored_tensors import open_stored_tensors
from oblong.records import Plan
from oblong.tuning.apply import AppliedPlan, apply_plan
from oblong.tuning.data import TrainingBlocks, build_training_blocks
from oblong.tuning.recipe import TuneRecipe
from oblong.tuning.trainer import TrainingResult, build_arguments, find_last_checkpoint, train
from tests.tuning_builders import SELECTED, list_tensor_names, make_recipe, save_tiny_llama


class KilledError(Exception):
    """Stands for the end of the process."""


def prepare(recipe: TuneRecipe) -> tuple[AppliedPlan, TrainingBlocks, int]:
    loaded = load_causal_lm(recipe.model, dtype=recipe.dtype)
    assert recipe.plan is not None
    plan = Plan.read(Path(recipe.plan))
    applied = apply_plan(loaded.model, plan, stored=open_stored_tensors(loaded.path))
    texts = read_documents(recipe.data.source).texts
    return applied, *build_training_blocks(texts, loaded.tokenizer, recipe)


def run(recipe: TuneRecipe, checkpoints: Path, **options: Any) -> tuple[AppliedPlan, TrainingResult]:
    applied, blocks, num_steps = prepare(recipe)
    result = train(applied, blocks, recipe, num_steps=num_steps, checkpoints=checkpoints, **options)
    return applied, result


def weights_of(applied: AppliedPlan) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in applied.model.state_dict().items()}


def losses_of(result: TrainingResult) -> list[tuple[int, float, float, float]]:
    return [(step.step, step.loss, step.learning_rate, step.gradient_norm) for step in result.steps]


def stop_after(steps: int) -> Callable[[int, int, float], None]:
    def on_progress(step: int, total: int, loss: float) -> None:
        if step == steps:
            raise KilledError

    return on_progress


def test_optimizer_has_float32_state_for_the_selected_tensors_alone(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=2, save_every=2)
    applied, _ = run(recipe, tmp_path / "checkpoints")
    checkpoint = tmp_path / "checkpoints" / "checkpoint-2"
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    moments = [entry["exp_avg"] for entry in state.values()]
    assert sorted(moment.shape for moment in moments) == sorted(tensor.shape for tensor in applied.trained.values())
    assert {moment.dtype for moment in moments} == {torch.float32}
    assert set(load_file(checkpoint / "trained.safetensors")) == set(SELECTED)
    names = {path.name for path in checkpoint.iterdir()}
    assert names == {"trained.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_training_everything_is_plain_fine_tuning(tmp_path: Path, dtype: str) -> None:
    """All tensors in the Plan: bit for bit the weights of transformers' own Trainer on a float32 model."""
    model = save_tiny_llama(tmp_path / "model")
    names = list_tensor_names(model)
    recipe = make_recipe(tmp_path, names=names, dtype=dtype, gradient_accumulation=2, warmup_steps=2)
    applied, result = run(recipe, tmp_path / "checkpoints")
    _, blocks, num_steps = prepare(recipe)

    with quiet_transformers():
        plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        arguments = build_arguments(recipe, num_steps=num_steps, output=tmp_path / "plain")
        arguments.train_sampling_strategy = "sequential"
        trainer = Trainer(plain, arguments, train_dataset=blocks, data_collator=default_data_collator)
        trainer.train()
    assert [entry["loss"] for entry in trainer.state.log_history[:-1]] == [step.loss for step in result.steps]
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, applied.model.state_dict()[name]), name


@pytest.mark.parametrize("killed_after", [1, 3, 5])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, killed_after: int) -> None:
    """Dropout is on, so that the random state matters too."""
    save_tiny_llama(tmp_path / "model", attention_dropout=0.5)
    recipe = make_recipe(tmp_path, save_every=2, gradient_accumulation=2, schedule="cosine", warmup_steps=2)
    straight, expected = run(recipe, tmp_path / "straight")

    with pytest.raises(KilledError):
        run(recipe, tmp_path / "resumed", on_progress=stop_after(killed_after))
    last = find_last_checkpoint(tmp_path / "resumed")
    assert (last is not None) == (killed_after > 2)
    resumed, result = run(recipe, tmp_path / "resumed")

    assert losses_of(result) == losses_of(expected)
    for name, tensor in weights_of(straight).items():
        assert torch.equal(tensor, weights_of(resumed)[name]), name


def test_only_the_last_checkpoint_is_kept_and_half_written_ones_are_ignored(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, save_every=2)
    checkpoints = tmp_path / "checkpoints"
    run(recipe, checkpoints)
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-6"]
    (checkpoints / ".checkpoint-8.half").mkdir()
    assert find_last_checkpoint(checkpoints) == checkpoints / "checkpoint-6"


def test_full_disk_at_a_checkpoint_keeps_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(tmp_path, save_every=2)
    checkpoints = tmp_path / "checkpoints"
    original = torch.save

    def fail_later(value: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if find_last_checkpoint(checkpoints) is not None:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file")
        original(value, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", fail_later)
    with pytest.raises(OutputWriteError, match="disk may be full"):
        run(recipe, checkpoints)
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-2"]


def test_gradient_checkpointing_changes_memory_and_not_the_losses(tmp_path: Path) -> None:
    _, plain = run(make_recipe(tmp_path), tmp_path / "plain")
    _, saved = run(make_recipe(tmp_path, gradient_checkpointing=True), tmp_path / "saved")
    assert [step.loss for step in saved.steps] == [step.loss for step in plain.steps]


def test_no_weight_decay_unless_asked(tmp_path: Path) -> None:
    """With a learning rate that moves nothing by gradient, decay alone would still shrink the weights."""
    applied, _ = run(make_recipe(tmp_path, learning_rate=1e-12), tmp_path / "a")
    before = load_file(tmp_path / "model" / "model.safetensors")
    for name in SELECTED:
        assert torch.equal(applied.trained[name].to(torch.bfloat16), before[name])
    shrunk, _ = run(make_recipe(tmp_path, learning_rate=1e-2, weight_decay=50.0), tmp_path / "b")
    assert all(shrunk.trained[name].norm() < before[name].float().norm() for name in SELECTED)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_divergence_stops_before_it_reaches_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The third step breaks; the weights are those after the second."""
    recipe = make_recipe(tmp_path, steps=6, schedule="constant")
    after_two, _ = run(make_recipe(tmp_path, steps=2, schedule="constant"), tmp_path / "two")

    applied, blocks, num_steps = prepare(recipe)
    break_third_step(applied.model, where)
    result = train(applied, blocks, recipe, num_steps=num_steps, checkpoints=tmp_path / "broken")

    assert result.diverged
    assert [step.step for step in result.steps] == [1, 2, 3]
    for name, tensor in after_two.trained.items():
        assert torch.equal(tensor, applied.trained[name])


def test_a_diverged_run_ends_in_the_form_that_its_method_gives_a_finished_one(tmp_path: Path) -> None:
    """All the way back to the base, as the states before the divergence were looked at."""
    recipe = make_recipe(tmp_path, method={"name": "wise_ft", "strength": 1.0}, schedule="constant")
    assert recipe.method is not None
    applied, blocks, num_steps = prepare(recipe)
    base = {name: tensor.detach().clone() for name, tensor in applied.trained.items()}
    break_third_step(applied.model, "loss")
    checkpoints = tmp_path / "broken"
    method = build_method(recipe.method)
    assert train(applied, blocks, recipe, num_steps=num_steps, checkpoints=checkpoints, method=method).diverged
    for name, tensor in base.items():
        assert torch.equal(tensor, applied.trained[name])


def break_third_step(model: nn.Module, where: str) -> None:
    calls = []

    def corrupt(module: nn.Module, inputs: Any, output: Any) -> Any:
        calls.append(1)
        if len(calls) < 3:
            return output
        if where == "loss":
            return output * torch.nan
        output.register_hook(lambda gradient: gradient * torch.inf)
        return output

    layer = model.get_submodule("model.layers.1.mlp")
    layer.register_forward_hook(corrupt)


def test_training_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = make_recipe(tmp_path, save_every=2)
    capfd.readouterr()
    run(recipe, tmp_path / "checkpoints")
    assert capfd.readouterr() == ("", "")


def test_progress_reports_every_step(tmp_path: Path) -> None:
    seen: list[tuple[int, int, float]] = []
    _, result = run(make_recipe(tmp_path), tmp_path / "c", on_progress=lambda *args: seen.append(args))
    assert seen == [(step.step, 6, step.loss) for step in result.steps]
    seconds = [step.seconds for step in result.steps]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
