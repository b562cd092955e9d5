"""Progressive columns and experts: they start as the base bit for bit, and what is old never changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from oblong.errors import MethodError
from oblong.methods.lora_experts import BASE_EXPERT, ExpertGate, ExpertLinear, LoraExperts
from oblong.methods.progressive_columns import ProgressiveColumns, find_layers
from tests.method_builders import draw_blocks, make_bigram, make_llama

BLOCKS_NT = draw_blocks(3, seed=0)


@torch.no_grad()
def read(model: nn.Module, **options: object) -> Tensor:
    model.eval()
    logits: Tensor = model(input_ids=BLOCKS_NT, **options).logits
    return logits


def fit(model: nn.Module, blocks_NT: Tensor, *, steps: int = 4, **options: object) -> None:
    """AdamW with weight decay, as training would be."""
    model.train()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05, weight_decay=0.1)
    for _ in range(steps):
        logits = model(input_ids=blocks_NT, **options).logits[:, :-1].flatten(0, 1)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, blocks_NT[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def test_a_new_column_is_the_base_bit_for_bit() -> None:
    base = make_llama()
    expected = read(base)
    model = ProgressiveColumns(base, rank=4)
    for task in (1, 2):
        model.add_column(seed=task)
        assert torch.equal(read(model, task=task), expected)
        assert model.last_column == task


def test_old_columns_are_bit_equal_after_new_ones_were_trained() -> None:
    base = make_llama()
    model = ProgressiveColumns(base, rank=4)
    readings = [read(model, task=0)]
    for task in (1, 2):
        model.add_column(seed=task)
        fit(model, draw_blocks(3, seed=task), task=task)
        readings.append(read(model, task=task))
        for older, reading in enumerate(readings):
            assert torch.equal(read(model, task=older), reading), older
    assert not torch.equal(readings[1], readings[0])
    assert not torch.equal(readings[2], readings[1])


def test_a_column_reads_all_older_ones() -> None:
    """Its lateral connections have a gradient for the base's stream and for the first column's."""
    model = ProgressiveColumns(make_llama(), rank=4)
    first = model.add_column(seed=1)
    with torch.no_grad():
        for layer in first:
            nn.init.normal_(layer.writer)  # type: ignore[arg-type]
    second = model.add_column(seed=2)
    with torch.no_grad():
        for layer in second:
            nn.init.normal_(layer.writer)  # type: ignore[arg-type]
    model(input_ids=BLOCKS_NT, task=2).logits.square().sum().backward()
    for layer in second:
        scales = layer.get_parameter("scales")
        assert scales.grad is not None
        assert bool(scales.grad.all())
    assert all(parameter.grad is None for parameter in first.parameters())
    assert all(parameter.grad is None for parameter in model.base.parameters())


def test_the_column_equation_by_hand() -> None:
    """A stack of layers that add 1 to their input: h' = h + 1 + U relu(V a h_base)."""
    model = ProgressiveColumns(make_llama(), rank=4)
    column = model.add_column(seed=3)
    lateral = column[0]
    with torch.no_grad():
        nn.init.normal_(lateral.writer)  # type: ignore[arg-type]
        lateral.scales.fill_(0.5)  # type: ignore[operator]
    source = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    expected = torch.relu(0.5 * source @ lateral.reader.T) @ lateral.writer.T  # type: ignore[operator]
    torch.testing.assert_close(lateral([source]), expected)


def test_an_unknown_task_is_answered_by_the_base_and_a_wrong_one_refused() -> None:
    model = ProgressiveColumns(make_llama(), rank=4)
    expected = read(model)
    model.add_column()
    fit(model, BLOCKS_NT, task=1)
    assert torch.equal(read(model, task=None), expected)
    assert model.last_column == 0
    with pytest.raises(MethodError, match="no column for task 2"):
        read(model, task=2)
    with pytest.raises(MethodError, match="list of layers"):
        find_layers(make_bigram())


@pytest.mark.parametrize("routing", ["given", "softmax", "gumbel"])
def test_experts_start_as_the_base_bit_for_bit(routing: str) -> None:
    base = make_llama()
    expected = read(base)
    model = LoraExperts(base, rank=2, routing=routing)  # type: ignore[arg-type]
    options = {"experts": torch.tensor([0, 1, 2])} if routing == "given" else {}
    assert torch.equal(read(model, **options), expected)


def test_experts_do_not_disturb_each_other_or_the_base() -> None:
    base = make_llama()
    expected = read(base)
    model = LoraExperts(base, rank=2)
    ones, twos = torch.ones(3, dtype=torch.int64), torch.full((3,), 2)
    model.train_only(1)
    fit(model, draw_blocks(3, seed=1), experts=ones)
    first = read(model, experts=ones)
    model.train_only(2)
    fit(model, draw_blocks(3, seed=2), experts=twos)
    assert torch.equal(read(model, experts=ones), first)
    assert torch.equal(read(model), expected)
    assert not torch.equal(read(model, experts=twos), first)


def test_sequences_of_one_batch_go_to_experts_of_their_own() -> None:
    model = LoraExperts(make_llama(), rank=2)
    model.train_only(1)
    fit(model, draw_blocks(3, seed=1), experts=torch.ones(3, dtype=torch.int64))
    mixed = read(model, experts=torch.tensor([1, 0, 1]))
    alone = read(model, experts=torch.ones(3, dtype=torch.int64))
    torch.testing.assert_close(mixed[[0, 2]], alone[[0, 2]])
    torch.testing.assert_close(mixed[1], read(model)[1])
    with pytest.raises(MethodError, match="experts 0"):
        read(model, experts=torch.tensor([0, 3, 0]))


def test_a_router_learns_which_expert_is_rewarded() -> None:
    """Expert 1 is made good by hand; the softmax router's share of it rises."""
    model = LoraExperts(make_llama(), rank=2, num_experts=2, routing="softmax", targets=("down_proj",))
    model.train_only(1)
    model.router.requires_grad_(False)  # type: ignore[union-attr]
    fit(model, BLOCKS_NT, steps=15)
    model.train_only(BASE_EXPERT)
    model.router.requires_grad_(True)  # type: ignore[union-attr]
    read(model)
    assert model.choice_BE is not None
    before = model.choice_BE[:, 1].mean().item()
    fit(model, BLOCKS_NT, steps=15)
    read(model)
    assert model.choice_BE[:, 1].mean().item() > before + 0.05


def test_gumbel_routing_is_one_expert_per_sequence_with_the_softmaxs_gradient() -> None:
    model = LoraExperts(make_llama(), rank=2, routing="gumbel")
    model.train()
    model(input_ids=BLOCKS_NT)
    choice = model.choice_BE
    assert choice is not None
    torch.testing.assert_close(choice.detach().max(-1).values, torch.ones(3))
    choice[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert model.router is not None
    assert model.router.bias.grad is not None
    assert bool(model.router.bias.grad.any())


def test_a_hard_choice_hears_of_the_experts_that_it_left_out() -> None:
    """Straight-through: the output is that of the chosen, the gradient by the shares is that of all."""
    generator = torch.Generator().manual_seed(0)
    layer = ExpertLinear(nn.Linear(4, 3), 2, 2, generator)
    with torch.no_grad():
        for writer in layer.writers:
            writer.normal_(generator=generator)
    hidden_BTD = torch.randn(1, 5, 4, generator=generator)
    layer.weights_BE = torch.tensor([[0.0, 1.0, 0.0]], requires_grad=True)
    output = layer(hidden_BTD)
    updates = [hidden_BTD @ reader.T @ writer.T for reader, writer in zip(layer.readers, layer.writers, strict=True)]
    torch.testing.assert_close(output, layer.base(hidden_BTD) + updates[0])
    (gradient,) = torch.autograd.grad(output.sum(), layer.weights_BE)
    torch.testing.assert_close(gradient[0, 1:], torch.stack([update.sum() for update in updates]))


def test_the_gate_sends_old_text_to_the_base_and_new_text_to_its_expert() -> None:
    """Two languages: low tokens and high tokens; a mask leaves padding out."""
    base = make_llama()
    old, new = draw_blocks(20, seed=0, vocabulary=5), draw_blocks(20, seed=1, vocabulary=5) + 6
    gate = ExpertGate(base)
    assert gate.add(old) == BASE_EXPERT
    assert gate.add(new) == 1
    held_out = torch.cat([draw_blocks(10, seed=2, vocabulary=5), draw_blocks(10, seed=3, vocabulary=5) + 6])
    assert gate.choose(held_out).tolist() == [0] * 10 + [1] * 10
    padded = torch.cat([held_out[:1], torch.full((1, 30), 10)], dim=1)
    mask = torch.cat([torch.ones(1, held_out.shape[1]), torch.zeros(1, 30)], dim=1)
    assert gate.choose(padded, mask).tolist() == [0]
    with pytest.raises(MethodError, match="old data first"):
        ExpertGate(base).choose(held_out)
