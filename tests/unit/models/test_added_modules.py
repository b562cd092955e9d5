"""Columns and experts beside a frozen model: who answers, generation, gradients, and leaving no trace."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from transformers import DynamicCache

from oblong.errors import MethodError
from oblong.models.added_modules import AddedModules, build_added, find_added
from oblong.models.added_modules.attached import count_answers, find_layers
from oblong.tuning.trainer import enable_gradient_checkpointing
from tests.method_builders import draw_blocks, make_llama

OLD_NT = draw_blocks(20, seed=0, vocabulary=5)
NEW_NT = draw_blocks(20, seed=1, vocabulary=5) + 6
MIXED_NT = torch.stack([OLD_NT[0], NEW_NT[0], OLD_NT[1]])
TARGETS = ("q_proj", "down_proj")
KINDS = ("columns", "experts")


def make(kind: Any, *, routing: Any = "base", tasks: int = 1) -> tuple[Any, AddedModules]:
    """A tiny Llama with added modules whose every task says something."""
    model = make_llama()
    added = build_added(model, kind, routing=routing, targets=TARGETS if kind == "experts" else ())
    added.attach()
    for task in range(1, tasks + 1):
        added.add(f"task {task}", rank=3, seed=task)
        disturb(added, seed=task)
    model.train(False)
    return model, added


@torch.no_grad()
def disturb(added: AddedModules, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in added.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def fit_gate(added: AddedModules) -> None:
    assert added.gate is not None
    added.gate.add(OLD_NT)
    added.gate.add(NEW_NT)


@torch.no_grad()
def read(model: nn.Module, ids: Tensor = MIXED_NT, **options: Any) -> Tensor:
    logits: Tensor = model(input_ids=ids, **options).logits
    return logits


def read_told(model: Any, added: AddedModules, task: int, ids: Tensor = MIXED_NT) -> Tensor:
    with added.telling(task):
        return read(model, ids)


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_and_what_older_tasks_say_stay_bit_for_bit_when_a_task_is_added(kind: str) -> None:
    expected = read(make_llama().train(False))
    model, added = make(kind)
    assert torch.equal(read_told(model, added, 0), expected)
    first = read_told(model, added, 1)
    assert not torch.equal(first, expected)
    added.add("second", rank=2, seed=7)
    if kind == "experts":  # a new expert starts as the base, a new column as the base beside older columns
        assert torch.equal(read_told(model, added, 2), expected)
    disturb(added, seed=9)
    assert torch.equal(read_told(model, added, 0), expected)
    assert torch.equal(read_told(model, added, 1), first)
    assert not torch.equal(read_told(model, added, 2), first)
    assert torch.equal(read(model), expected)  # nobody tells: the base answers
    with pytest.raises(MethodError, match="no task 3"), added.telling(3):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_sends_every_sequence_of_a_batch_its_own_way(kind: str) -> None:
    model, added = make(kind, routing="gate")
    fit_gate(added)
    with count_answers(model) as tally:
        mixed = read(model)
    assert tally is not None
    assert tally.compute_shares() == {"base": pytest.approx(2 / 3), "task 1": pytest.approx(1 / 3)}
    base, task = read_told(model, added, 0), read_told(model, added, 1)
    assert torch.equal(mixed[[0, 2]], base[[0, 2]])
    assert torch.equal(mixed[1], task[1])
    assert not torch.equal(base[1], task[1])
    torch.testing.assert_close(read(model, logits_to_keep=2), mixed[:, -2:])
    labelled = model(input_ids=MIXED_NT, labels=MIXED_NT)
    by_hand = nn.functional.cross_entropy(mixed[:, :-1].flatten(0, 1), MIXED_NT[:, 1:].flatten())
    torch.testing.assert_close(labelled.loss.detach(), by_hand)


def test_padding_has_no_say_in_who_answers() -> None:
    model, added = make("experts", routing="gate")
    fit_gate(added)
    padded = torch.cat([OLD_NT[:1], torch.full((1, 15), 10)], dim=1)
    read(model, padded, attention_mask=torch.cat([torch.ones_like(OLD_NT[:1]), torch.zeros(1, 15).long()], dim=1))
    assert added.choice_BE is not None
    assert added.choice_BE.tolist() == [[1, 0]]
    read(model, padded)
    assert added.choice_BE.tolist() == [[0, 1]]


def generate_by_hand(model: Any, added: AddedModules, prompt: Tensor, task: int, *, steps: int) -> Tensor:
    """Greedy, without a cache, told who answers."""
    ids = prompt
    for _ in range(steps):
        ids = torch.cat([ids, read_told(model, added, task, ids)[:, -1:].argmax(-1)], dim=1)
    return ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", ["old", "new"])
def test_whoever_answers_the_prompt_answers_all_of_a_generation(kind: str, prompt: str) -> None:
    """The prompt is short and what follows is of both kinds, so that a choice made anew would not be the same."""
    model, added = make(kind, routing="gate")
    fit_gate(added)
    ids = (OLD_NT if prompt == "old" else NEW_NT)[:1, :3]
    task = 0 if prompt == "old" else 1
    options: dict[str, Any] = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    generated = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(generated, generate_by_hand(model, added, ids, task, steps=10))
    with added.telling(1 - task):
        told = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(told, generate_by_hand(model, added, ids, 1 - task, steps=10))
    beams = model.generate(ids, attention_mask=torch.ones_like(ids), num_beams=2, num_return_sequences=2, **options)
    assert beams.shape == (2, 13)
    read(model, NEW_NT[:1])
    assert added.choice_BE is not None
    assert added.choice_BE.tolist() == [[0, 1]]  # the next text is chosen for anew


def test_a_loop_with_a_cache_of_its_own_keeps_the_choice_and_a_foreign_cache_is_refused() -> None:
    model, added = make("experts", routing="gate")
    fit_gate(added)
    whole = torch.cat([NEW_NT[:1], OLD_NT[:1, :2]], dim=1)
    with torch.no_grad():
        begun = model(input_ids=NEW_NT[:1], use_cache=True)
        rest = model(input_ids=whole[:, -2:], past_key_values=begun.past_key_values, use_cache=True)
    torch.testing.assert_close(rest.logits, read_told(model, added, 1, whole)[:, -2:])
    with pytest.raises(MethodError, match="this cache was begun elsewhere"):
        read(model, whole[:, -1:], past_key_values=copy.deepcopy(begun.past_key_values))


def test_columns_refuse_a_cache() -> None:
    model, added = make("columns")
    with added.telling(0):
        assert model(input_ids=OLD_NT[:1], past_key_values=DynamicCache()).past_key_values is not None
    with pytest.raises(MethodError, match="use_cache=False"), added.telling(1):
        model(input_ids=OLD_NT[:1], past_key_values=DynamicCache())


def compute_gradients(kind: str, *, checkpointing: bool, routing: Any = "base") -> dict[str, Tensor]:
    model, added = make(kind, routing=routing, tasks=2)
    if checkpointing:
        enable_gradient_checkpointing(model)
    model.train()
    added.told = 2 if routing == "base" else None
    loss = model(input_ids=MIXED_NT, labels=MIXED_NT, use_cache=False).loss
    with added.telling(0):
        read(model, OLD_NT[:2])  # a teacher looks in between, as methods on outputs let it
    loss.backward()
    found = {name: value.grad for name, value in added.named_parameters() if value.requires_grad}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient for name, gradient in found.items() if gradient is not None}


@pytest.mark.parametrize(("kind", "routing"), [("columns", "base"), ("experts", "base"), ("experts", "softmax")])
def test_gradients_are_the_same_where_activations_are_computed_again(kind: str, routing: str) -> None:
    plain = compute_gradients(kind, checkpointing=False, routing=routing)
    again = compute_gradients(kind, checkpointing=True, routing=routing)
    assert plain.keys() == again.keys()
    assert any(bool(gradient.any()) for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient)


def test_a_router_keeps_what_it_learned_of_older_tasks_and_mixes_what_they_say() -> None:
    model, added = make("experts", routing="softmax")
    learned = added.collect_tensors()["router.weight"].clone()
    added.add("second", rank=2, seed=3)
    grown = added.collect_tensors()["router.weight"]
    assert torch.equal(grown[:-1], learned)
    assert not grown[-1].any()
    assert {name for name, value in added.named_parameters() if value.requires_grad} >= {"router.weight", "router.bias"}
    read(model)
    assert added.choice_BE is not None
    torch.testing.assert_close(added.choice_BE.sum(-1), torch.ones(3))
    assert float(added.choice_BE.max()) < 1


def test_a_drawing_router_draws_in_training_alone_and_goes_on_where_its_count_is() -> None:
    model, added = make("experts", routing="gumbel", tasks=2)
    still = [read(model) for _ in range(2)]
    assert torch.equal(*still)
    model.train()
    draws = dict(added.named_parameters())["draws"]
    assert int(draws) == 0
    drawn = []
    for _ in range(12):
        model(input_ids=MIXED_NT)
        assert added.choice_BE is not None
        drawn.append(added.choice_BE.argmax(-1).tolist())
    assert int(draws) == 12
    assert len({tuple(row) for row in drawn}) > 1
    with torch.no_grad():
        draws.fill_(5)
    model(input_ids=MIXED_NT)
    assert added.choice_BE is not None
    assert added.choice_BE.argmax(-1).tolist() == drawn[5]
    torch.testing.assert_close(added.choice_BE.detach(), one_hot(added.choice_BE.argmax(-1), 3).float())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_down_is_all_and_what_does_not_fit_is_refused(kind: str) -> None:
    model, added = make(kind, routing="gate", tasks=1)
    fit_gate(added)
    other, empty = make(kind, routing="gate", tasks=1)
    empty.load_tensors(added.collect_tensors())
    assert torch.equal(read(other), read(model))
    added.add("task 1", rank=3)
    assert added.tasks == ["task 1", "task 1 (2)"]
    with pytest.raises(MethodError, match="of another model"):
        empty.load_tensors(added.collect_tensors())


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_they_leave_is_what_it_was(kind: str) -> None:
    plain = make_llama().train(False)
    model, added = make(kind)
    assert find_added(model) is added
    with pytest.raises(MethodError, match="added modules already"):
        build_added(model, "columns", routing="base").attach()
    added.told = 1
    added.detach()
    assert find_added(model) is None
    assert "generate" not in model.__dict__
    assert set(dict(model.named_parameters())) == set(dict(plain.named_parameters()))
    assert torch.equal(read(model), read(plain))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_layers_are_found_beside_a_longer_list() -> None:
    """A mixture keeps its experts in lists that may be longer than the list of layers."""
    model: Any = make_llama()
    for layer in model.model.layers:
        layer.mlp.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(5))
    assert find_layers(model) is model.model.layers
