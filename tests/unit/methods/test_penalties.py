"""L2-SP, EWC, MAS and SI against closed forms: bigram models have them."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from oblong.methods.ewc import ElasticWeightConsolidation, draw_labels, estimate_fisher
from oblong.methods.l2_sp import L2Sp
from oblong.methods.mas import MemoryAwareSynapses, estimate_sensitivity
from oblong.methods.options import EwcOptions, L2SpOptions, MasOptions, SiOptions
from oblong.methods.quadratic_penalty import QuadraticPenalty, normalise
from oblong.methods.si import SynapticIntelligence
from tests.method_builders import Bigram, draw_blocks, make_bigram, make_training
from tests.tolerances import FLOAT32

NUM_VOCABULARY = 5


def perturb(model: Bigram, seed: int = 7) -> None:
    with torch.no_grad():
        model.weight.add_(torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(seed)))


def penalty_by_autograd(model: Bigram, base: Tensor, importance: Tensor, weight: float) -> Tensor:
    (gradient,) = torch.autograd.grad((weight * importance * (model.weight - base) ** 2).sum(), model.weight)
    return gradient


@pytest.mark.parametrize("half", [True, False])
def test_gradient_is_that_of_the_published_penalty(half: bool) -> None:
    """Half the strength in L2-SP and EWC, all of it in MAS and SI."""
    model = make_bigram()
    method: QuadraticPenalty = (
        ElasticWeightConsolidation(EwcOptions(strength=3.0)) if half else MemoryAwareSynapses(MasOptions(strength=3.0))
    )
    method.prepare(make_training(model))
    base = model.weight.detach().clone()
    importance = torch.rand(model.weight.shape, generator=torch.Generator().manual_seed(1))
    method.importance = {"weight": importance}
    perturb(model)
    model.weight.grad = torch.ones_like(model.weight)
    method.change_gradients()
    expected = penalty_by_autograd(model, base, importance, 1.5 if half else 3.0)
    torch.testing.assert_close(model.weight.grad, 1.0 + expected)
    direct = (1.5 if half else 3.0) * float((importance * (model.weight.detach() - base) ** 2).sum())
    assert method.compute_penalty() == pytest.approx(direct, rel=FLOAT32)


def test_l2_sp_is_weight_decay_towards_the_base() -> None:
    """One SGD step with L2-SP from the base's neighbourhood shrinks the distance by 1 - lr alpha."""
    model = make_bigram()
    method = L2Sp(L2SpOptions(strength=0.5))
    method.prepare(make_training(model))
    base = model.weight.detach().clone()
    perturb(model)
    before = model.weight.detach() - base
    model.weight.grad = torch.zeros_like(model.weight)
    method.change_gradients()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    torch.testing.assert_close(model.weight.detach() - base, before * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("strength", [0.5, 1e6])
def test_proximal_update_minimises_its_problem(strength: float) -> None:
    """argmin_x ||x - theta||^2 / (2 lr) + strength / 2 ||x - theta*||^2, stable where explicit steps would explode."""
    model = make_bigram()
    method = L2Sp(L2SpOptions(strength=strength, update="proximal"))
    method.prepare(make_training(model))
    base = model.weight.detach().clone()
    perturb(model)
    start = model.weight.detach().clone()
    model.weight.grad = torch.zeros_like(model.weight)
    method.change_gradients()
    assert not model.weight.grad.any()
    method.after_step(torch.optim.SGD(model.parameters(), lr=0.1))
    solved = model.weight.detach()
    stationarity = (solved - start).double() / 0.1 + strength * (solved - base).double()
    assert float(stationarity.abs().max()) < 1e-4 + strength * 1e-6  # float32 weights of size 3
    assert float((solved - base).norm()) <= float((start - base).norm())


@pytest.mark.parametrize("strength", [1e-7, 5e-7, 0.7, 1e6])
def test_a_weight_at_the_base_stays_there_bit_for_bit(strength: float) -> None:
    """The base is where the penalty pulls nowhere, also where 1 + lr strength is next to 1 in float32."""
    model = make_bigram(vocabulary=40)
    method = L2Sp(L2SpOptions(strength=strength, update="proximal"))
    method.prepare(make_training(model))
    base = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        method.after_step(optimizer)
    assert torch.equal(model.weight.detach(), base)


def fisher_of_bigram(weight_VU: Tensor, blocks_NT: Tensor) -> Tensor:
    """Closed form: F_vu = share of the positions whose token is u, times p_v (1 - p_v) after u."""
    p_VU = torch.softmax(weight_VU.double(), dim=0)
    contexts = blocks_NT[:, :-1].flatten()
    share_U = torch.bincount(contexts, minlength=weight_VU.shape[1]).double() / len(contexts)
    return share_U * p_VU * (1 - p_VU)


def test_sampled_fisher_is_the_closed_form() -> None:
    """Mean over 800 sequences of drawn labels; a standard error is about 4 % of the largest element."""
    model = make_bigram()
    blocks_NT = draw_blocks(2, seed=0, length=8, vocabulary=NUM_VOCABULARY)
    training = make_training(model, blocks_NT)
    options = EwcOptions(draws=400)
    estimate = estimate_fisher(training, options)["weight"].double()
    expected = fisher_of_bigram(model.weight.detach(), blocks_NT)
    assert float((estimate - expected).abs().max()) < 0.15 * float(expected.max())
    assert float(estimate.sum()) == pytest.approx(float(expected.sum()), rel=0.08)


def test_empirical_fisher_is_the_squared_score_of_the_text() -> None:
    """By hand: the score of a sequence is sum_t (onehot(y_t) - p(.|x_t)) onehot(x_t)'."""
    model = make_bigram()
    blocks_NT = draw_blocks(3, seed=2, length=6, vocabulary=NUM_VOCABULARY)
    estimate = estimate_fisher(make_training(model, blocks_NT), EwcOptions(fisher="empirical"))["weight"]
    p_VU = torch.softmax(model.weight.detach().double(), dim=0)
    total = torch.zeros_like(p_VU)
    for block_T in blocks_NT:
        score = torch.zeros_like(p_VU)
        for context, label in itertools.pairwise(block_T.tolist()):
            score[:, context] -= p_VU[:, context]
            score[label, context] += 1.0
        total += score**2
    torch.testing.assert_close(estimate.double(), total / (3 * 5), rtol=1e-4, atol=1e-6)


def test_squaring_a_batch_mean_is_something_else() -> None:
    """The known mistake: the square of a mean gradient of n sequences is far below the mean of squares."""
    model = make_bigram()
    blocks_NT = draw_blocks(16, seed=2, length=6, vocabulary=NUM_VOCABULARY)
    logits = model(blocks_NT).logits[:, :-1].flatten(0, 1)
    labels = draw_labels(logits, torch.Generator().manual_seed(0))
    loss = torch.nn.functional.cross_entropy(logits, labels)
    (mean_gradient,) = torch.autograd.grad(loss, model.weight)
    fisher = fisher_of_bigram(model.weight.detach(), blocks_NT)
    assert float(mean_gradient.square().sum()) < 0.2 * float(fisher.sum())


def test_online_ewc_decays_the_tasks_before() -> None:
    model = make_bigram()
    method = ElasticWeightConsolidation(EwcOptions(decay=0.25, normalise=False, fisher="empirical"))
    first = draw_blocks(3, seed=1, vocabulary=NUM_VOCABULARY)
    second = draw_blocks(3, seed=2, vocabulary=NUM_VOCABULARY)
    method.prepare(make_training(model, first))
    method.measure()
    perturb(model)
    method.prepare(make_training(model, second))
    method.measure()
    options = EwcOptions(fisher="empirical")
    now = estimate_fisher(make_training(model, second), options)["weight"]
    before = estimate_fisher(make_training(make_bigram(), first), options)["weight"]
    assert method.importance is not None
    torch.testing.assert_close(method.importance["weight"], 0.25 * before + now)
    torch.testing.assert_close(method.base["weight"], model.weight.detach())


def test_mas_is_the_closed_form_of_a_linear_map() -> None:
    """One-token blocks u: F = W[:, u], so |d ||F||^2 / d W_vu| = |2 W_vu|, averaged over the tokens seen."""
    model = make_bigram()
    blocks_NT = torch.tensor([[0], [1], [1], [3]])
    options = MasOptions(output="logits", normalise=False)
    estimate = estimate_sensitivity(make_training(model, blocks_NT), options)["weight"]
    share_U = torch.tensor([0.25, 0.5, 0.0, 0.25, 0.0])
    torch.testing.assert_close(estimate, (2 * model.weight.detach()).abs() * share_U)


def test_mas_of_log_probabilities_ignores_a_constant_added_to_all_logits() -> None:
    blocks_NT = draw_blocks(2, seed=5, vocabulary=NUM_VOCABULARY)
    shifted = make_bigram()
    with torch.no_grad():
        shifted.weight.add_(3.0)
    one, other = (
        estimate_sensitivity(make_training(model, blocks_NT), MasOptions())["weight"]
        for model in (make_bigram(), shifted)
    )
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_opposite_samples_do_not_cancel_in_mas() -> None:
    """A batch gradient before the absolute value would be zero here."""
    model = Bigram(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    estimate = estimate_sensitivity(
        make_training(model, torch.tensor([[0], [1]])), MasOptions(output="logits", normalise=False)
    )["weight"]
    assert bool((estimate[0] > 0).all())


def test_normalised_importance_has_mean_one_over_all_tensors() -> None:
    values = normalise({"a": torch.rand(3, 4) * 1e-9, "b": torch.rand(50) * 1e-7})
    total = sum(float(value.double().sum()) for value in values.values())
    assert total / 62 == pytest.approx(1.0, rel=FLOAT32)
    assert not normalise({"a": torch.zeros(3)})["a"].any()


def descend(model: Bigram, method: SynapticIntelligence, blocks_NT: Tensor, *, steps: int, rate: float) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        logits = model(blocks_NT).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, blocks_NT[:, 1:].flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        method.change_gradients()
        optimizer.step()
        method.after_step(optimizer)
    return losses


def test_the_path_integral_of_si_is_the_loss_that_was_removed() -> None:
    """Full batch, small steps: sum of omega = L(start) - L(end), to first order in the learning rate."""
    model = make_bigram()
    blocks_NT = draw_blocks(4, seed=1, vocabulary=NUM_VOCABULARY)
    method = SynapticIntelligence(SiOptions(strength=0.0, warmup_steps=0))
    method.prepare(make_training(model, blocks_NT))
    losses = descend(model, method, blocks_NT, steps=200, rate=0.02)
    drop = losses[0] - losses[-1]
    assert drop > 0.1
    assert float(method.path_integral["weight"].sum()) == pytest.approx(drop, rel=0.02)


@pytest.mark.parametrize("update", ["gradient", "proximal"])
def test_si_integrates_the_unregularised_gradient(update: Literal["gradient", "proximal"]) -> None:
    """With a penalty in place, omega is still minus gradient of the loss times all of the step, its pull included."""
    model = make_bigram()
    blocks_NT = draw_blocks(4, seed=1, vocabulary=NUM_VOCABULARY)
    method = SynapticIntelligence(SiOptions(strength=5.0, warmup_steps=0, update=update))
    method.prepare(make_training(model, blocks_NT))
    method.importance = {"weight": torch.ones_like(model.weight.detach())}
    perturb(model)
    start = model.weight.detach().clone()
    loss_gradient = torch.full_like(start, 0.3)
    model.weight.grad = loss_gradient.clone()
    method.change_gradients()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    optimizer.step()
    method.after_step(optimizer)
    torch.testing.assert_close(method.path_integral["weight"], -loss_gradient * (model.weight.detach() - start))


def test_importance_of_si_is_the_published_quotient_and_never_negative() -> None:
    model = make_bigram()
    method = SynapticIntelligence(SiOptions(damping=0.1))
    method.prepare(make_training(model))
    base = model.weight.detach().clone()
    perturb(model)
    path = torch.linspace(-1, 1, base.numel()).view_as(base)
    method.path_integral = {"weight": path.clone()}
    method.finish()
    expected = (path / ((model.weight.detach() - base) ** 2 + 0.1)).clamp_min(0)
    assert method.importance is not None
    torch.testing.assert_close(method.importance["weight"], expected)
    assert not method.path_integral["weight"].any()


def test_the_warm_up_of_si_finds_importance_and_drops_its_weights() -> None:
    model = make_bigram()
    blocks_NT = draw_blocks(4, seed=1, vocabulary=NUM_VOCABULARY)
    method = SynapticIntelligence(SiOptions(warmup_steps=5))
    before = model.weight.detach().clone()
    method.prepare(make_training(model, blocks_NT, learning_rate=0.05))
    method.measure()
    assert torch.equal(model.weight.detach(), before)
    assert model.weight.grad is None
    assert method.importance is not None
    assert float(method.importance["weight"].sum()) > 0


def test_no_path_no_importance() -> None:
    """Why the warm-up is there: without it, SI does nothing on the first task."""
    model = make_bigram()
    method = SynapticIntelligence(SiOptions(warmup_steps=0, strength=100.0))
    blocks_NT = draw_blocks(2, seed=1, vocabulary=NUM_VOCABULARY)
    method.prepare(make_training(model, blocks_NT))
    method.measure()
    assert method.importance is None


def test_labels_are_drawn_from_the_models_distribution() -> None:
    logits_NV = torch.tensor([[0.0, np.log(3.0)]]).repeat(4000, 1)
    share = float(draw_labels(logits_NV, torch.Generator().manual_seed(0)).float().mean())
    assert share == pytest.approx(0.75, abs=0.03)
