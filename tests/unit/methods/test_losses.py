"""Methods that work through the loss or the batch: distillation, token and sample weights, masking, replay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from oblong.errors import MethodError
from oblong.methods.anchor import Reservoir
from oblong.methods.base_model import BaseModel
from oblong.methods.eaft import EntropyAdaptive, compute_top_entropy
from oblong.methods.flow import Flow
from oblong.methods.kl_to_base import KlToBase
from oblong.methods.lwf import LearningWithoutForgetting
from oblong.methods.mask_the_target import MaskTheTarget
from oblong.methods.options import (
    EaftOptions,
    FlowOptions,
    KlToBaseOptions,
    LwfOptions,
    MaskTheTargetOptions,
    ReplayOptions,
    StmOptions,
)
from oblong.methods.protocol import Batch, Method
from oblong.methods.replay import ExperienceReplay
from oblong.methods.stm import SelectiveTokenMasking
from oblong.methods.token_losses import compute_divergence, select_predicted, weigh_tokens
from tests.method_builders import Bigram, draw_blocks, make_bigram, make_llama, make_training

NUM_VOCABULARY = 5
DISTILLERS: list[Method] = [
    LearningWithoutForgetting(LwfOptions()),
    LearningWithoutForgetting(LwfOptions(temperature=1.0, times_squared_temperature=True)),
    KlToBase(KlToBaseOptions()),
    KlToBase(KlToBaseOptions(direction="reverse")),
    MaskTheTarget(MaskTheTargetOptions()),
]


def make_batch(*, seed: int = 3, vocabulary: int = NUM_VOCABULARY, ignored: int = 0) -> dict[str, Tensor]:
    blocks_BT = draw_blocks(3, seed=seed, length=7, vocabulary=vocabulary)
    labels_BT = blocks_BT.clone()
    labels_BT[:, :ignored] = -100
    return {"input_ids": blocks_BT, "labels": labels_BT}


def tune(model: Bigram) -> None:
    with torch.no_grad():
        model.weight.add_(torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(4)))


def extra_loss(method: Method, model: torch.nn.Module, batch: Batch, num_items: float = 1.0) -> Tensor:
    extra = method.compute_extra_loss(batch, model(input_ids=batch["input_ids"]).logits, num_items)
    assert extra is not None
    return extra


@pytest.mark.parametrize("method", DISTILLERS)
def test_distillation_is_zero_with_zero_gradient_at_the_base(method: Method) -> None:
    """On a Llama in float32, bit for bit zero."""
    model = make_llama()
    method.prepare(make_training(model))
    loss = extra_loss(method, model, make_batch(vocabulary=11))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    for parameter in model.parameters():
        assert parameter.grad is None or float(parameter.grad.abs().max()) < 1e-7


def test_the_teacher_is_the_base_after_the_model_has_moved() -> None:
    model = make_llama()
    training = make_training(model)
    batch = make_batch(vocabulary=11)
    expected = model(input_ids=batch["input_ids"]).logits.detach()
    teacher = BaseModel(model, training.trained, training.autocast)
    with torch.no_grad():
        for parameter in training.trained.values():
            parameter.add_(0.3)
    model.train()
    assert torch.equal(teacher.compute_logits(batch), expected)
    assert model.training
    assert not torch.allclose(model(input_ids=batch["input_ids"]).logits, expected)


def distributions(model: Bigram, base: Tensor, batch: Batch) -> Iterator[tuple[Tensor, Tensor, int]]:
    """p_base, p and the label at each predicted position, by loops."""
    for row, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        for position in range(len(row) - 1):
            label = int(labels[position + 1])
            if label != -100:
                context = row[position]
                yield base[:, context].double(), model.weight.detach()[:, context].double(), label


def by_hand(p_logits: Tensor, q_logits: Tensor) -> float:
    p, q = torch.softmax(p_logits, 0), torch.softmax(q_logits, 0)
    return float((p * (p / q).log()).sum())


def test_divergences_are_those_of_the_definition() -> None:
    """Padding and prompts are out of the mean; T softens; the reverse direction swaps; the target is masked."""
    model = make_bigram()
    base = model.weight.detach().clone()
    batch = make_batch(ignored=3)
    methods: dict[str, Method] = {
        "lwf": LearningWithoutForgetting(LwfOptions(strength=0.5)),
        "lwf_squared": LearningWithoutForgetting(LwfOptions(strength=0.5, times_squared_temperature=True)),
        "forward": KlToBase(KlToBaseOptions(strength=0.5)),
        "reverse": KlToBase(KlToBaseOptions(strength=0.5, direction="reverse")),
        "masked": MaskTheTarget(MaskTheTargetOptions(strength=0.5)),
    }
    for method in methods.values():
        method.prepare(make_training(model))
    tune(model)
    found = {name: extra_loss(method, model, batch, num_items=12.0).item() for name, method in methods.items()}
    triples = list(distributions(model, base, batch))
    assert len(triples) == 12
    others = [torch.tensor([v for v in range(NUM_VOCABULARY) if v != label]) for _, _, label in triples]
    expected = {
        "lwf": sum(by_hand(p / 2, q / 2) for p, q, _ in triples),
        "lwf_squared": 4 * sum(by_hand(p / 2, q / 2) for p, q, _ in triples),
        "forward": sum(by_hand(p, q) for p, q, _ in triples),
        "reverse": sum(by_hand(q, p) for p, q, _ in triples),
        "masked": sum(by_hand(p[rest], q[rest]) for (p, q, _), rest in zip(triples, others, strict=True)),
    }
    for name, total in expected.items():
        assert found[name] == pytest.approx(0.5 * total / 12, rel=1e-5), name


def test_masking_the_target_leaves_its_logit_alone() -> None:
    """The label's probability is free: the term has no gradient there."""
    model = make_bigram()
    method = MaskTheTarget(MaskTheTargetOptions())
    method.prepare(make_training(model))
    tune(model)
    batch = {"input_ids": torch.tensor([[0, 2]]), "labels": torch.tensor([[0, 2]])}
    extra_loss(method, model, batch).backward()  # type: ignore[no-untyped-call]
    assert model.weight.grad is not None
    assert float(model.weight.grad[2, 0]) == 0.0
    assert bool((model.weight.grad[[0, 1, 3, 4], 0] != 0).all())


@pytest.mark.parametrize("method", [*DISTILLERS, EntropyAdaptive(EaftOptions()), Flow(FlowOptions(temperature=2.0))])
def test_a_micro_batch_without_a_predicted_token_adds_nothing(method: Method) -> None:
    """The last one of a step may be all padding; the step as a whole has tokens."""
    model = make_bigram()
    method.prepare(make_training(model))
    tune(model)
    loss = extra_loss(method, model, make_batch(ignored=7), num_items=20.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert model.weight.grad is not None
    assert not model.weight.grad.any()


def test_divergence_of_excluded_tokens_is_finite() -> None:
    minus = float("-inf")
    pair = torch.tensor([[0.0, minus, 1.0]]), torch.tensor([[0.0, minus, 2.0]], requires_grad=True)
    loss = compute_divergence(*pair).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert bool(torch.isfinite(pair[1].grad).all())  # type: ignore[arg-type]


def test_entropy_of_the_top_tokens() -> None:
    """Uniform over 20 of 50: ln 20. One certain token: 0."""
    logits = torch.full((2, 50), -50.0)
    logits[0, :20] = 1.0
    logits[1, 3] = 60.0
    entropy = compute_top_entropy(logits, 20)
    assert entropy.tolist() == pytest.approx([math.log(20), 0.0], abs=1e-5)
    assert compute_top_entropy(torch.zeros(1, 3), 20).item() == pytest.approx(math.log(3))


def test_eaft_is_the_weighted_mean() -> None:
    model = make_bigram()
    batch = make_batch()
    extra = extra_loss(EntropyAdaptive(EaftOptions(strength=2.0, top=3)), model, batch, num_items=18.0)
    logits_NV, labels_N = select_predicted(model(batch["input_ids"]).logits, batch["labels"])
    plain = torch.nn.functional.cross_entropy(logits_NV, labels_N)
    total = 0.0
    for logits, label in zip(logits_NV.double().detach(), labels_N, strict=True):
        best = torch.softmax(logits.sort(descending=True).values[:3], 0)
        entropy = float(-(best * best.log()).sum())
        total += (entropy / 3.0) ** 2 * float(-torch.log_softmax(logits, 0)[label])
    assert (plain + extra).item() == pytest.approx(total / 18, rel=1e-5)


def test_a_weight_of_one_adds_nothing_at_all() -> None:
    losses = torch.rand(5, requires_grad=True)
    added = weigh_tokens(torch.ones(5), losses, 3.0)
    added.backward()  # type: ignore[no-untyped-call]
    assert added.item() == 0.0
    assert losses.grad is not None
    assert not losses.grad.any()


def test_flow_weighs_samples_by_their_base_loss() -> None:
    """By hand: tau is the median over the items, and w_i = exp(-f_i / tau) multiplies the tokens of sample i."""
    model = make_bigram()
    base = model.weight.detach().clone()
    items = [{name: value[:1] for name, value in make_batch(seed=seed).items()} for seed in range(5)]
    method = Flow(FlowOptions(items=5))
    method.prepare(make_training(model, read_items=lambda count: iter(items[:count])))
    method.measure()
    means = [mean_loss(base, item["input_ids"][0]) for item in items]
    assert method.temperature == pytest.approx(sorted(means)[2], rel=1e-5)
    tune(model)
    batch = make_batch()
    expected = 0.0
    for row in batch["input_ids"]:
        weight = math.exp(-mean_loss(base, row) / sorted(means)[2])
        expected += weight * mean_loss(model.weight.detach(), row) * 6
    plain = sum(mean_loss(model.weight.detach(), row) * 6 for row in batch["input_ids"])
    extra = extra_loss(method, model, batch, num_items=18.0).item()
    assert plain / 18 + extra == pytest.approx(expected / 18, rel=1e-5)


def mean_loss(weight_VU: Tensor, row_T: Tensor) -> float:
    logits = weight_VU.T[row_T[:-1]].double()
    return float(torch.nn.functional.cross_entropy(logits, row_T[1:]))


def test_flow_without_anything_to_predict_says_so() -> None:
    method = Flow(FlowOptions())
    method.prepare(make_training(make_bigram()))
    with pytest.raises(MethodError, match="give temperature"):
        method.measure()


def test_stm_drops_exactly_the_surprising_tokens() -> None:
    model = make_bigram()
    batch = make_batch()
    method = SelectiveTokenMasking(StmOptions(perplexity=4.0))
    method.prepare(make_training(model))
    tune(model)  # the base decides, not the model of the moment
    base = make_bigram().weight.detach()
    (masked,) = method.extend_batches([batch])
    for row, labels, before in zip(batch["input_ids"], masked["labels"], batch["labels"], strict=True):
        assert labels[0] == before[0]
        for position in range(len(row) - 1):
            probability = float(torch.softmax(base[:, row[position]].double(), 0)[row[position + 1]])
            kept = labels[position + 1] == before[position + 1]
            assert kept == (1 / probability <= 4.0)
    assert torch.equal(batch["labels"], make_batch()["labels"])


def test_stm_keeps_one_token_when_all_surprise() -> None:
    method = SelectiveTokenMasking(StmOptions(perplexity=1.0001))
    method.prepare(make_training(make_bigram()))
    (masked,) = method.extend_batches([make_batch()])
    assert int((masked["labels"][:, 1:] != -100).sum()) == 1


def make_replay(strength: float, blocks_NT: Tensor, **fields: Any) -> ExperienceReplay:
    method = ExperienceReplay(ReplayOptions(strength=strength))
    method.prepare(make_training(make_bigram(), blocks_NT, **fields))
    return method


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0, 2.5])
def test_replay_adds_its_share_of_old_rows_and_nothing_else(strength: float) -> None:
    old_NT = draw_blocks(4, seed=8, length=7, vocabulary=NUM_VOCABULARY)
    method = make_replay(strength, old_NT)
    num_old = 0
    for step in range(10):
        batches = [make_batch(seed=step), make_batch(seed=step + 50)]
        extended = method.extend_batches(batches)
        for new, both in zip(batches, extended, strict=True):
            assert torch.equal(both["input_ids"][:3], new["input_ids"])
            rows = both["input_ids"][3:]
            num_old += len(rows)
            assert all(any(torch.equal(row, old) for old in old_NT) for row in rows)
            assert torch.equal(both["labels"][3:], rows)
    assert num_old == math.floor(60 * strength)


def test_replay_pads_blocks_of_another_length() -> None:
    method = make_replay(1.0, draw_blocks(4, seed=8, length=4, vocabulary=NUM_VOCABULARY))
    (both,) = method.extend_batches([make_batch()])
    assert both["input_ids"].shape == (6, 7)
    assert both["attention_mask"].sum(dim=1).tolist() == [7, 7, 7, 4, 4, 4]
    assert bool((both["labels"][3:, 4:] == -100).all())


def test_replay_refuses_batches_that_are_more_than_text() -> None:
    method = make_replay(1.0, draw_blocks(2, seed=8))
    with pytest.raises(MethodError, match="input_features"):
        method.extend_batches([{**make_batch(), "input_features": torch.zeros(3, 2)}])


def test_the_reservoir_is_uniform() -> None:
    """Chi-squared over 40 items, 10 slots, 500 streams: 39 degrees of freedom, 0.1 % point 72.1."""
    counts = torch.zeros(40)
    for seed in range(500):
        reservoir = Reservoir(10, seed=seed)
        for item in range(40):
            reservoir.add(item)
        assert len(reservoir.items) == len(set(reservoir.items)) == 10
        counts[reservoir.items] += 1
    expected = 500 * 10 / 40
    assert float(((counts - expected) ** 2 / (expected * (1 - 0.25))).sum()) < 72.1
