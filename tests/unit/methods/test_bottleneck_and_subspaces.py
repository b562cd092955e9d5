"""The information bottleneck's channel and the subspace projection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from oblong.errors import RecipeError
from oblong.methods.information_bottleneck import Channel, InformationBottleneck, compute_rate
from oblong.methods.options import InformationBottleneckOptions, SubspaceOptions
from oblong.methods.subspace_projection import SubspaceProjection, find_component, find_leading
from oblong.tuning.recipe import build_recipe
from tests.method_builders import draw_blocks, make_llama, make_trainer, make_training


def test_rate_is_the_divergence_of_gaussians() -> None:
    """Against torch.distributions."""
    generator = torch.Generator().manual_seed(0)
    mean, prior_mean = torch.randn(5, 3, generator=generator), torch.randn(3, generator=generator)
    spread, prior_spread = torch.rand(5, 3, generator=generator) + 0.1, torch.rand(3, generator=generator) + 0.1
    expected = kl_divergence(Normal(mean, spread), Normal(prior_mean, prior_spread)).sum(-1)
    torch.testing.assert_close(compute_rate(mean, spread, prior_mean, prior_spread), expected)
    assert float(compute_rate(mean, spread, mean, spread).abs().max()) < 1e-6


def test_the_channel_starts_as_the_identity_bit_for_bit() -> None:
    """Also in training, with noise: the gate is zero."""
    model = make_llama()
    blocks_NT = draw_blocks(2, seed=0)
    before = model(input_ids=blocks_NT).logits.detach()
    method = InformationBottleneck(InformationBottleneckOptions(dimension=4))
    method.prepare(make_training(model))
    for training in (True, False):
        model.train(training)
        assert torch.equal(model(input_ids=blocks_NT).logits, before)


def test_noise_in_training_and_the_mean_otherwise() -> None:
    channel = Channel(6, 3, seed=0)
    with torch.no_grad():
        channel.gate.fill_(1.0)
    hidden = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    channel.train()
    assert not torch.equal(channel(hidden), channel(hidden))
    channel.eval()
    assert torch.equal(channel(hidden), channel(hidden))
    torch.testing.assert_close(channel(hidden), hidden + hidden @ channel.mean.T @ channel.decoder.T)


def test_noise_is_a_function_of_seed_and_calls_alone() -> None:
    before = torch.random.get_rng_state()
    channels = [Channel(6, 3, seed=0).train() for _ in range(2)]
    hidden = torch.ones(1, 1, 6)
    for channel in channels:
        with torch.no_grad():
            channel.gate.fill_(1.0)
    assert torch.equal(channels[0](hidden), channels[1](hidden))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_beta_pushes_the_rate_down(tmp_path: Path) -> None:
    """Two trainings of the channel alone; the rate after them."""
    rates = []
    for beta in (1e-12, 1.0):
        model = make_llama(trained=())
        method = InformationBottleneck(InformationBottleneckOptions(strength=beta, dimension=4))
        make_trainer(tmp_path / str(beta), model, method, num_steps=20, learning_rate=3e-2).train()
        model.train(False)
        model(input_ids=draw_blocks(4, seed=40))
        assert method.channel is not None
        assert method.channel.rate_BT is not None
        rates.append(float(method.channel.rate_BT.detach().mean()))
    assert rates[1] < 0.5 * rates[0]


def test_annealing_raises_beta_step_by_step() -> None:
    model = make_llama()
    method = InformationBottleneck(InformationBottleneckOptions(strength=1.0, dimension=4, anneal_steps=4))
    method.prepare(make_training(model))
    blocks_NT = draw_blocks(2, seed=0)
    batch = {"input_ids": blocks_NT, "labels": blocks_NT}
    terms = []
    for _ in range(6):
        term = method.compute_extra_loss(batch, model(input_ids=blocks_NT).logits, 1.0)
        assert term is not None
        terms.append(term.item())
        method.change_gradients()
    assert np.array(terms) / terms[-1] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0], rel=1e-5)


def test_recipes_refuse_what_a_delta_cannot_hold() -> None:
    data: dict[str, Any] = {"model": "demo", "plan": "p.yaml", "data": "t.txt", "output": "o", "steps": 1}
    with pytest.raises(RecipeError, match="MethodTrainer"):
        build_recipe({**data, "method": "information_bottleneck"})


def test_the_component_in_the_leading_subspaces_by_projectors() -> None:
    generator = torch.Generator().manual_seed(0)
    base, matrix = torch.randn(7, 5, generator=generator), torch.randn(7, 5, generator=generator)
    left, right = find_leading(base, 0.4)
    reference = np.linalg.svd(base.double().numpy(), full_matrices=False)
    outer = np.eye(7) - reference.U[:, :2] @ reference.U[:, :2].T
    inner = np.eye(5) - reference.Vh[:2].T @ reference.Vh[:2]
    expected = matrix.double().numpy() - outer @ matrix.double().numpy() @ inner
    np.testing.assert_allclose(find_component(matrix, left, right).numpy(), expected, atol=1e-5)


def test_leading_singular_triples_survive_training_with_adam(tmp_path: Path) -> None:
    """U_r' W V, U' W V_r and the update's other half: by numpy on the weights before and after."""
    model = make_llama()
    name = "model.layers.0.mlp.down_proj.weight"
    before = model.get_parameter(name).detach().double().numpy().copy()
    make_trainer(tmp_path, model, SubspaceProjection(SubspaceOptions(strength=0.5)), weight_decay=0.1).train()
    update = model.get_parameter(name).detach().double().numpy() - before
    reference = np.linalg.svd(before, full_matrices=False)
    rank = round(0.5 * min(before.shape))
    assert np.linalg.norm(update) > 1e-3
    assert np.abs(reference.U[:, :rank].T @ update).max() < 1e-6
    assert np.abs(update @ reference.Vh[:rank].T).max() < 1e-6
