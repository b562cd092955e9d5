"""What a method keeps of one task and takes over for the next."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from oblong.methods import AnchorData, build_method, parse_method
from oblong.methods.classp import ClasspMethod
from oblong.methods.ewc import ElasticWeightConsolidation, estimate_fisher
from oblong.methods.half_fine_tuning import HalfFineTuning
from oblong.methods.options import ClasspOptions, EwcOptions, HalfFineTuningOptions, PackNetOptions
from oblong.methods.packnet import PackNet
from oblong.methods.protocol import Method, State
from tests.method_builders import (
    VOCABULARY,
    draw_blocks,
    make_anchor,
    make_bigram,
    make_llama,
    make_trainer,
    make_training,
    weights_of,
)

MANY = tuple(f"model.layers.{layer}.mlp.{name}_proj.weight" for layer in (0, 1) for name in ("up", "down", "gate"))


def train(folder: Path, model: torch.nn.Module, method: Method, memory: State | None = None, **options: Any) -> None:
    trainer = make_trainer(folder, model, method, **options)
    trainer._memory = memory
    trainer.train()


def through_a_file(state: State, file: Path) -> State:
    torch.save(state, file)
    loaded: State = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize(
    "recipe",
    [
        {"name": "ewc"},
        {"name": "mas"},
        {"name": "si", "warmup_steps": 2},
        {"name": "packnet", "strength": 0.5},
        {"name": "evolutionary_pruning", "groups": 6, "population": 3, "generations": 1},
    ],
)
def test_what_is_kept_is_all_that_the_next_task_needs(recipe: Any, tmp_path: Path) -> None:
    """A new method that takes over what another kept does what that one, used again, does."""
    models = make_llama(), make_llama()
    methods = [build_method(parse_method(recipe)) for _ in models]
    for model, method in zip(models, methods, strict=True):
        train(tmp_path, model, method)
    heir = build_method(parse_method(recipe))
    train(tmp_path, models[0], methods[0], seed=5)
    train(tmp_path, models[1], heir, through_a_file(methods[1].keep_for_next_task(), tmp_path / "memory.pt"), seed=5)
    after = weights_of(models[0])
    assert all(torch.equal(value, after[name]) for name, value in weights_of(models[1]).items())
    fresh = make_llama()
    train(tmp_path, fresh, build_method(parse_method(recipe)))
    train(tmp_path, fresh, build_method(parse_method(recipe)), seed=5)
    assert any(not torch.equal(value, after[name]) for name, value in weights_of(fresh).items())


def test_ewc_adds_the_fisher_information_of_the_newest_task_alone() -> None:
    model = make_bigram()
    method = ElasticWeightConsolidation(EwcOptions(fisher="empirical", normalise=False))
    anchor = make_anchor(draw_blocks(3, seed=1, vocabulary=5)).add_group(draw_blocks(2, seed=2, vocabulary=5), "new")
    method.prepare(make_training(model, None))
    kept = {"importance": {"weight": torch.ones_like(model.weight.detach())}}
    method.start_next_task(kept)
    method.training = replace(method.training, anchor=anchor)
    method.measure()
    newest = make_training(model, draw_blocks(2, seed=2, vocabulary=5))
    expected = 1 + estimate_fisher(newest, EwcOptions(fisher="empirical"))["weight"]
    assert method.importance is not None
    torch.testing.assert_close(method.importance["weight"], expected)


def test_a_group_is_added_to_old_data_and_taken_alone() -> None:
    anchor = AnchorData(blocks=draw_blocks(2, seed=0), tasks=torch.zeros(2, dtype=torch.int64), sources=("base",))
    more = anchor.add_group(draw_blocks(3, seed=1), "german")
    assert (more.num_tasks, more.sources, more.tasks.tolist()) == (2, ("base", "german"), [0, 0, 1, 1, 1])
    newest = more.take_newest()
    assert (newest.num_tasks, newest.sources, newest.tasks.tolist()) == (1, ("german",), [0, 0, 0])
    assert torch.equal(newest.blocks, draw_blocks(3, seed=1))
    assert torch.equal(more.draw(3, seed=0, step=0, task=1).sort(0).values, newest.blocks.sort(0).values)


def test_packnet_told_the_task_gives_an_older_model_back(tmp_path: Path) -> None:
    model, ids = make_llama(), draw_blocks(2, seed=4)
    first = PackNet(PackNetOptions(strength=0.5))
    train(tmp_path, model, first)
    memory = through_a_file(first.keep_for_next_task(), tmp_path / "memory.pt")
    before = pruned_logits(deepcopy(model), deepcopy(memory), ids, tmp_path)
    second = PackNet(PackNetOptions(strength=0.5))
    train(tmp_path, model, second, memory, seed=5)
    assert second.reads_by_task
    with torch.no_grad():
        with second.as_told(0):
            assert torch.equal(model(input_ids=ids).logits, before)
        assert not torch.equal(model(input_ids=ids).logits, before)


def pruned_logits(model: Any, memory: State, ids: torch.Tensor, folder: Path) -> torch.Tensor:
    """What the first task says once it has freed weights for the second."""
    method = PackNet(PackNetOptions(strength=0.5))
    method.prepare(make_trainer(folder, model, method)._describe_training())
    method.start_next_task(memory)
    method.measure()
    with torch.no_grad(), method.as_told(0):
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits


@pytest.mark.parametrize("options", [{"strength": 0.0}, {"zero_freed": False}])
def test_packnet_cannot_be_told_the_task_where_nothing_was_hidden(options: Any) -> None:
    assert not PackNet(PackNetOptions(**options)).reads_by_task


def test_classp_goes_on_from_the_sums_of_the_task_before(tmp_path: Path) -> None:
    model = make_llama()
    first = ClasspMethod(ClasspOptions())
    train(tmp_path, model, first)
    kept = through_a_file(first.keep_for_next_task(), tmp_path / "memory.pt")
    second = ClasspMethod(ClasspOptions(anchor_blocks=2))
    train(tmp_path, model, second, kept)
    after = second.keep_for_next_task()["sums"]
    assert after.keys() == kept["sums"].keys()
    assert all((after[name] >= value).all() for name, value in kept["sums"].items())
    assert any((after[name] > value).any() for name, value in kept["sums"].items())


def test_half_fine_tuning_freezes_another_half_in_every_task(tmp_path: Path) -> None:
    model = make_llama(trained=MANY)
    halves, memory = [], None
    for _ in range(3):
        method = HalfFineTuning(HalfFineTuningOptions())
        train(tmp_path, model, method, memory)
        halves.append(method.choose_frozen(0))
        memory = through_a_file(method.keep_for_next_task(), tmp_path / "memory.pt")
    assert memory == {"num_stages": 3}
    assert len(set(halves)) > 1
    again = HalfFineTuning(HalfFineTuningOptions())
    again._training = method._training
    again.load_state_dict(method.state_dict())
    assert again.choose_frozen(0) == halves[-1]


def test_half_fine_tuning_resumed_after_its_last_step_knows_its_stages() -> None:
    """Three stages before, steps 0 to 5 in stages of two: six stages, whether or not this process took the steps."""
    options = HalfFineTuningOptions(stage_steps=2)
    training = make_training(make_llama(trained=MANY))
    whole, resumed = HalfFineTuning(options), HalfFineTuning(options)
    whole.prepare(training)
    whole.start_next_task({"num_stages": 3})
    for _ in range(6):
        whole.change_gradients()
    resumed.prepare(training)
    resumed.load_state_dict(whole.state_dict())
    assert whole.keep_for_next_task() == resumed.keep_for_next_task() == {"num_stages": 6}


def test_plain_methods_keep_nothing() -> None:
    for name in ("plain", "l2_sp", "replay", "gem", "a_gem", "lwf"):
        method = build_method(parse_method(name))
        method.prepare(make_training(make_bigram(), draw_blocks(2, seed=0, vocabulary=VOCABULARY)))
        assert method.keep_for_next_task() == {}


@pytest.mark.parametrize("name", ["pnn", "progressive_columns", "lora_experts", "routing", "expert_gate"])
def test_methods_that_are_models_of_their_own_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} adds modules .* must be told which task .* the base answers"):
        parse_method({"name": name, "rank": 4})
