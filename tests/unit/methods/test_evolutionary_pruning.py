"""Evolutionary pruning as a method: the units that old text misses least train, and nothing else moves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oblong.errors import MethodError
from oblong.methods import parse_method
from oblong.methods.anchor_losses import measure_anchor_loss
from oblong.methods.evolutionary_pruning import EvolutionaryPruning, advise_on_tasks
from oblong.methods.feed_forward import find_feed_forward, list_units, silence
from oblong.methods.options import EvolutionaryPruningOptions
from oblong.methods.protocol import State, Training
from tests.method_builders import draw_blocks, make_llama, make_trainer, make_training, weights_of

NUM_UNITS, NUM_GROUPS = 24, 6
SMALL: dict[str, Any] = {"groups": NUM_GROUPS, "population": 3, "generations": 2}
REST = ("model.layers.1.self_attn.v_proj.weight", "model.norm.weight")


def name_matrices(*roles: str, layers: Iterable[int] = (0, 1)) -> tuple[str, ...]:
    return tuple(f"model.layers.{layer}.mlp.{role}_proj.weight" for layer in layers for role in roles)


ALL = name_matrices("gate", "up", "down")


def make_method(**fields: Any) -> EvolutionaryPruning:
    return EvolutionaryPruning(EvolutionaryPruningOptions(**(SMALL | fields)))


def begin(model: torch.nn.Module, *, seed: int = 0, **fields: Any) -> EvolutionaryPruning:
    method = make_method(**fields)
    method.prepare(make_training(model, draw_blocks(4, seed=1), seed=seed))
    method.measure()
    return method


def list_freed(method: EvolutionaryPruning, layer: int, task: int = 1) -> list[int]:
    groups = (method.owners[f"model.layers.{layer}.mlp"] == task).nonzero().flatten().tolist()
    return list_units(groups, NUM_UNITS, NUM_GROUPS)


def find_moved_units(before: dict[str, Tensor], after: dict[str, Tensor], name: str) -> set[int]:
    moved = before[name] != after[name]
    along = moved.any(0) if "down" in name else moved.flatten(1).any(1) if moved.ndim > 1 else moved
    return set(along.nonzero().flatten().tolist())


@torch.no_grad()
def compute_logits(model: Any) -> Tensor:
    model.eval()
    logits: Tensor = model(input_ids=draw_blocks(2, seed=30)).logits
    return logits


def compute_silenced(model: Any, method: EvolutionaryPruning, *tasks: int) -> Tensor:
    """Logits with the units silent that some tasks were given."""
    blocks = [block for block in find_feed_forward(model) if block.name in method.owners]
    owners = [method.owners[block.name].tolist() for block in blocks]
    chosen = tuple(tuple(group for group, task in enumerate(owner) if task in tasks) for owner in owners)
    with silence(blocks, chosen, NUM_GROUPS):
        return compute_logits(model)


def train(folder: Path, model: Any, method: EvolutionaryPruning, memory: State | None = None, **fields: Any) -> None:
    """AdamW with momentum and weight decay, which move weights whose gradient is zero."""
    trainer = make_trainer(folder, model, method, weight_decay=0.5, num_steps=3, **fields)
    trainer._memory = memory
    trainer.train()


@pytest.mark.parametrize("zero_freed", [False, True])
@pytest.mark.parametrize(
    "trained",
    [
        ALL,
        name_matrices("down"),
        name_matrices("up"),
        name_matrices("gate", "up", layers=[0]),
        (*name_matrices("up", layers=[1]), *name_matrices("down", layers=[0])),
    ],
    ids=["all", "down", "up", "inputs of one layer", "mixed"],
)
def test_nothing_moves_but_the_freed_units(tmp_path: Path, trained: tuple[str, ...], zero_freed: bool) -> None:
    """Whatever was learned: with the freed units silent the model says what it said before, bit for bit."""
    model = make_llama(trained=(*trained, *REST))
    before, untouched = weights_of(model), make_llama()
    method = make_method(zero_freed=zero_freed)
    train(tmp_path, model, method)
    after = weights_of(model)
    for name in before:
        moved = find_moved_units(before, after, name) if "mlp" in name else set()
        expected = list_freed(method, int(name.split(".")[2])) if name in trained else []
        assert moved == set(expected), name
        if not moved:
            assert torch.equal(before[name], after[name]), name
    assert torch.equal(compute_silenced(model, method, 1), compute_silenced(untouched, method, 1))
    assert not torch.equal(compute_logits(model), compute_logits(untouched))


def test_units_of_a_block_with_biases_keep_theirs(tmp_path: Path) -> None:
    model = make_biased()
    before = weights_of(model)
    method = make_method()
    train(tmp_path, model, method)
    after = weights_of(model)
    for role in ("gate", "up"):
        for kind in ("weight", "bias"):
            moved = find_moved_units(before, after, f"model.layers.0.mlp.{role}_proj.{kind}")
            assert moved == set(list_freed(method, 0))
    assert torch.equal(before["model.layers.0.mlp.down_proj.bias"], after["model.layers.0.mlp.down_proj.bias"])


def make_biased(*, trained: tuple[str, ...] = ("gate", "up", "down"), bias_trains: bool = True) -> torch.nn.Module:
    """Layer 0's feed-forward layers have biases, drawn at random."""
    model = make_llama(trained=name_matrices(*trained, layers=[0]))
    torch.manual_seed(1)
    for role in ("gate", "up", "down"):
        layer = model.get_submodule(f"model.layers.0.mlp.{role}_proj")
        assert isinstance(layer, torch.nn.Linear)
        layer.bias = torch.nn.Parameter(torch.randn(layer.out_features), bias_trains)
    return model


@pytest.mark.parametrize("trained", [ALL, name_matrices("up"), name_matrices("down")], ids=["all", "up", "down"])
def test_the_pruned_base_is_where_training_starts(trained: tuple[str, ...]) -> None:
    """One matrix of each unit is zero, so the model is silent there and the units still have a gradient."""
    model = make_llama(trained=trained)
    before = weights_of(model)
    method = begin(model, zero_freed=True)
    assert torch.equal(compute_logits(model), compute_silenced(make_llama(), method, 1))
    zeroed = [name for name, value in weights_of(model).items() if not torch.equal(value, before[name])]
    assert {name.split(".")[4] for name in zeroed} == {"down_proj" if trained != name_matrices("up") else "up_proj"}
    loss = model(input_ids=draw_blocks(2, seed=3), labels=draw_blocks(2, seed=3)).loss
    loss.backward()
    for name in zeroed:
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        moving = gradient.any(0) if "down" in name else gradient.any(1)
        assert moving[list_freed(method, int(name.split(".")[2]))].all()


def test_biases_that_train_are_zeroed_with_their_units() -> None:
    """Rows of a gated up are silent without their bias alone."""
    method = begin(model := make_biased(trained=("up",)), zero_freed=True)
    assert torch.equal(compute_logits(model), compute_silenced(make_biased(trained=("up",)), method, 1))
    with pytest.raises(MethodError, match=r"neither down_proj nor up_proj of model\.layers\.0\.mlp"):
        begin(make_biased(trained=("up",), bias_trains=False), zero_freed=True)


def test_without_zeroing_training_starts_from_the_base() -> None:
    model = make_llama(trained=ALL)
    before = weights_of(model)
    method = begin(model)
    assert all(torch.equal(value, before[name]) for name, value in weights_of(model).items())
    assert {name: int((owner == 1).sum()) for name, owner in method.owners.items()} == {
        "model.layers.0.mlp": 2,
        "model.layers.1.mlp": 2,
    }


def test_the_report_says_what_was_found() -> None:
    model = make_llama(trained=ALL)
    method = begin(model, generations=4, population=4)
    training = make_training(make_llama(), draw_blocks(4, seed=1))
    assert method.report["base"] == measure_anchor_loss(training, draw_blocks(4, seed=1))
    generations = [method.report[f"generation {number}"] for number in range(5)]
    assert generations == sorted(generations, reverse=True)
    assert generations[-1] == method.report["silenced"] == measure_silenced(method, training)


def measure_silenced(method: EvolutionaryPruning, training: Training) -> float:
    blocks = find_feed_forward(training.model)
    chosen = [(method.owners[block.name] == 1).nonzero().flatten().tolist() for block in blocks]
    with silence(blocks, tuple(tuple(groups) for groups in chosen), NUM_GROUPS):
        return measure_anchor_loss(training, draw_blocks(4, seed=1))


def test_the_search_depends_on_the_seed_alone_and_leaves_global_generators_alone() -> None:
    states = torch.random.get_rng_state(), str(np.random.get_state())
    one, again, other = (
        begin(make_llama(trained=ALL), seed=seed, strength=0.5, population=2, generations=3) for seed in (0, 0, 1)
    )
    make_llama()  # which seeds torch's as it was
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert states[1] == str(np.random.get_state())
    assert one.report == again.report
    assert all(torch.equal(owner, again.owners[name]) for name, owner in one.owners.items())
    assert one.report != other.report


def test_fewer_blocks_of_old_data_are_read_where_asked() -> None:
    model = make_llama(trained=ALL)
    seen: set[int] = set()

    def remember(module: Any, arguments: Any, keywords: Any) -> None:
        seen.update(hash(tuple(row)) for row in keywords["input_ids"].tolist())

    model.register_forward_pre_hook(remember, with_kwargs=True)
    begin(model, blocks=3)
    assert len(seen) == 3


def test_what_was_found_is_in_the_checkpoint_and_not_searched_again() -> None:
    """Loaded where there is no old data to search with."""
    model = make_llama(trained=(*ALL, *REST))
    method = begin(model)
    resumed = make_method()
    resumed.prepare(make_training(model))
    resumed.load_state_dict(method.state_dict())
    assert resumed.report == method.report
    assert resumed.task == method.task == 1
    for name in ALL:
        assert torch.equal(resumed.find_owned(name), method.find_owned(name))


def test_every_task_is_given_units_of_its_own(tmp_path: Path) -> None:
    """Three tasks of two groups: all six; what a task learned does not move any more."""
    model = make_llama(trained=(*ALL, *REST))
    memory, before = None, weights_of(model)
    for task in (1, 2, 3):
        method = make_method()
        train(tmp_path / str(task), model, method, memory, seed=task)
        memory = method.keep_for_next_task()
        after = weights_of(model)
        for name in ALL:
            layer = int(name.split(".")[2])
            assert find_moved_units(before, after, name) == set(list_freed(method, layer, task))
        before = after
    assert all(sorted(owner.tolist()) == [1, 1, 2, 2, 3, 3] for owner in method.owners.values())
    with pytest.raises(
        MethodError, match=r"0 of the 6 groups .* 3 tasks before .* for 4 .* strength of at least 0\.8334"
    ):
        train(tmp_path / "4", model, make_method(), memory)
    with pytest.raises(MethodError, match=r"into 6 groups, and this one would into 8"):
        train(tmp_path / "4", model, make_method(groups=8), memory)


def test_told_the_task_an_older_model_comes_back(tmp_path: Path) -> None:
    """Task k is read with the units silent that later tasks were given, as they were when those tasks began."""
    model = make_llama(trained=ALL)
    readings: dict[tuple[int, int], Tensor] = {}
    memory = None
    for task in (0, 1):
        method = make_method(zero_freed=True)
        train(tmp_path / str(task), model, method, memory, seed=task)
        memory = method.keep_for_next_task()
        assert method.reads_by_task
        for told in range(-1, task + 1):
            with method.as_told(told):
                readings[task, told] = compute_logits(model)
    assert torch.equal(readings[1, 0], compute_silenced(model, method, 2))
    assert torch.equal(readings[1, -1], compute_silenced(make_llama(), method, 1, 2))
    assert torch.equal(readings[1, 1], compute_logits(model))
    assert not torch.equal(readings[1, 0], readings[1, 1])
    assert not make_method().reads_by_task
    assert not make_method(zero_freed=True, strength=0.0).reads_by_task


@pytest.mark.parametrize("num_tasks", range(2, 40))
def test_the_advised_strength_is_enough_for_so_many_tasks_and_little_more(num_tasks: int) -> None:
    for groups in (num_tasks, 40, 64, 600):
        strength = float(advise_on_tasks(num_tasks, groups).rpartition(" ")[2])
        options = EvolutionaryPruningOptions(strength=strength, groups=groups)
        assert options.deleted == groups // num_tasks
    assert advise_on_tasks(41, 40) == "for 41 tasks give all of them at least 41 groups"


@pytest.mark.parametrize(("strength", "deleted"), [(0.75, 8), (0.5, 16), (0.999, 1), (0.01, 31), (0.9, 3)])
def test_strength_is_the_share_that_stays(strength: float, deleted: int) -> None:
    """At least one group is freed and one stays."""
    assert EvolutionaryPruningOptions(strength=strength).deleted == deleted


def test_what_cannot_work_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="strength"):
        parse_method({"name": "evolutionary_pruning", "strength": 1})
    with pytest.raises(MethodError, match=r"none of their matrices.*oblong plan --within role.*packnet"):
        begin(make_llama(trained=REST))
    with pytest.raises(MethodError, match=r"24 units.*32 groups: lower the groups"):
        begin(make_llama(trained=ALL), groups=32)
    with pytest.raises(MethodError, match=r"neither down_proj nor up_proj of model\.layers\.1\.mlp.*leave zero_freed"):
        begin(make_llama(trained=(*name_matrices("gate", layers=[1]), *ALL[:3])), zero_freed=True)
    with pytest.raises(MethodError, match="needs old data"):
        method = make_method()
        method.prepare(make_training(make_llama(trained=ALL)))
        method.measure()


def test_a_matrix_that_two_layers_share_rests() -> None:
    """Its columns are units of both."""
    model = make_llama(trained=name_matrices("down", layers=[0]))
    first, second = (block.down for block in find_feed_forward(model))
    second.weight = first.weight
    with pytest.raises(MethodError, match="none of their matrices"):
        begin(model)


def test_strength_zero_needs_no_feed_forward_block() -> None:
    model = make_llama(trained=REST)
    method = begin(model, strength=0.0)
    value = model.get_parameter(REST[1])
    value.grad = torch.ones_like(value)
    method.change_gradients()
    assert value.grad.all()
    assert method.report == {}
