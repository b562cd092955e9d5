"""GEM, A-GEM and PackNet: inequalities, an independent solver, and weights that never move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from oblong.methods.a_gem import AveragedGem
from oblong.methods.anchor_losses import compute_anchor_gradients, compute_inner_product, measure_anchor_loss
from oblong.methods.gem import GradientEpisodicMemory, add_weighted, solve_dual
from oblong.methods.options import AGemOptions, GemOptions, PackNetOptions
from oblong.methods.packnet import FREE, PackNet
from tests.method_builders import draw_blocks, make_anchor, make_llama, make_trainer, make_training

NUM_TASKS = 3


def draw_problem(seed: int, num_tasks: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(num_tasks, 8)), generator.normal(size=8)


def project(old_KD: NDArray[np.float64], new_D: NDArray[np.float64], *, margin: float) -> NDArray[np.float64]:
    weights = solve_dual(old_KD @ old_KD.T, old_KD @ new_D, margin=margin, ridge=0.0)
    return new_D + old_KD.T @ weights


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_tasks", [1, 3, 6])
def test_the_dual_solves_the_primal_problem(seed: int, num_tasks: int) -> None:
    """Without margin and ridge: the closest gradient that violates nothing, as a general solver finds it."""
    old_KD, new_D = draw_problem(seed, num_tasks)
    found = project(old_KD, new_D, margin=0.0)
    primal = minimize(
        lambda x: 0.5 * np.sum((x - new_D) ** 2),
        np.zeros_like(new_D),
        jac=lambda x: x - new_D,
        constraints={"type": "ineq", "fun": lambda x: old_KD @ x, "jac": lambda x: old_KD},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(found, primal.x, atol=1e-5)
    assert (old_KD @ found > -1e-9).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_dual_with_margin_is_the_reference_programme(seed: int) -> None:
    """min 1/2 v'Pv + (Gg)'v, v >= margin, with the ridge on P's diagonal: by a bounded general solver."""
    old_KD, new_D = draw_problem(seed, NUM_TASKS)
    gram, violations = old_KD @ old_KD.T, old_KD @ new_D
    matrix = gram + 1e-3 * np.trace(gram) / NUM_TASKS * np.eye(NUM_TASKS)
    reference = minimize(
        lambda v: 0.5 * v @ matrix @ v + violations @ v,
        np.full(NUM_TASKS, 0.5),
        jac=lambda v: matrix @ v + violations,
        bounds=[(0.5, None)] * NUM_TASKS,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-12},
    )
    found = solve_dual(gram, violations, margin=0.5, ridge=1e-3)
    np.testing.assert_allclose(found, reference.x, atol=1e-5)
    assert (found >= 0.5).all()


def prepare_llama(
    method: GradientEpisodicMemory | AveragedGem, *, num_tasks: int
) -> tuple[torch.nn.Module, list[dict[str, Tensor]]]:
    """A Llama whose gradient is the opposite of old data's, and the old gradients that the method will see."""
    model = make_llama()
    training = make_training(model, draw_blocks(2 * num_tasks, seed=9), num_tasks=num_tasks)
    method.prepare(training)
    old = [
        compute_anchor_gradients(training, training.old_data.blocks[training.old_data.tasks == task])
        for task in range(num_tasks)
    ]
    generator = torch.Generator().manual_seed(0)
    for name, value in training.trained.items():
        noise = 0.05 * torch.randn(value.shape, generator=generator)
        value.grad = -sum((gradients[name] for gradients in old), torch.zeros_like(value)) + noise
    return model, old


def current(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def test_gem_lets_no_old_loss_rise() -> None:
    """Inner products are global: with G the old gradients, G g~ >= -ridge v."""
    method = GradientEpisodicMemory(GemOptions(blocks=2, margin=0.0, ridge=1e-9))
    model, old = prepare_llama(method, num_tasks=NUM_TASKS)
    before = current(model)
    assert min(compute_inner_product(before, gradients) for gradients in old) < -1e-3
    method.change_gradients()
    after = current(model)
    scale = compute_inner_product(before, before)
    assert min(compute_inner_product(after, gradients) for gradients in old) > -1e-5 * scale


def test_gem_leaves_a_gradient_that_violates_nothing() -> None:
    method = GradientEpisodicMemory(GemOptions(blocks=2))
    model, _ = prepare_llama(method, num_tasks=1)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.neg_()
    before = current(model)
    method.change_gradients()
    for name, gradient in current(model).items():
        assert torch.equal(gradient, before[name])


def test_gem_of_one_task_without_margin_is_a_gem() -> None:
    gem = GradientEpisodicMemory(GemOptions(blocks=2, margin=0.0, ridge=0.0))
    averaged = AveragedGem(AGemOptions(blocks=2))
    one, _ = prepare_llama(gem, num_tasks=1)
    other, _ = prepare_llama(averaged, num_tasks=1)
    gem.change_gradients()
    averaged.change_gradients()
    for name, gradient in current(one).items():
        torch.testing.assert_close(gradient, current(other)[name], rtol=1e-4, atol=1e-6)


def test_a_gem_ends_orthogonal_to_the_reference() -> None:
    method = AveragedGem(AGemOptions(blocks=2))
    model, (reference,) = prepare_llama(method, num_tasks=1)
    before = current(model)
    method.change_gradients()
    after = current(model)
    length = compute_inner_product(reference, reference)
    assert compute_inner_product(before, reference) < -1e-3
    assert abs(compute_inner_product(after, reference)) < 1e-5 * length
    moved = {name: after[name] - before[name] for name in after}
    cosine = compute_inner_product(moved, reference) / (compute_inner_product(moved, moved) * length) ** 0.5
    assert cosine == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    "method",
    [GradientEpisodicMemory(GemOptions(blocks=2, margin=0.0, ridge=1e-9)), AveragedGem(AGemOptions(blocks=2))],
    ids=["gem", "a_gem"],
)
def test_a_tensor_without_a_gradient_has_no_part_in_the_projection(
    method: GradientEpisodicMemory | AveragedGem,
) -> None:
    """An expert that no new token reached does not move, so the others alone must not raise the old loss."""
    model, (reference,) = prepare_llama(method, num_tasks=1)
    unreached = max(reference, key=lambda name: float(reference[name].norm()))
    model.get_parameter(unreached).grad = None
    moving = {name: gradient for name, gradient in reference.items() if name != unreached}
    length = compute_inner_product(moving, moving)
    assert length < 0.9 * compute_inner_product(reference, reference)
    assert compute_inner_product(moving, current(model)) < -0.5 * length
    method.change_gradients()
    assert model.get_parameter(unreached).grad is None
    assert abs(compute_inner_product(moving, current(model))) < 1e-3 * length


def test_half_the_projection_is_half_way() -> None:
    whole, half = (AveragedGem(AGemOptions(blocks=2, strength=share)) for share in (1.0, 0.5))
    one, _ = prepare_llama(whole, num_tasks=1)
    other, _ = prepare_llama(half, num_tasks=1)
    start = current(one)
    whole.change_gradients()
    half.change_gradients()
    for name, gradient in current(other).items():
        torch.testing.assert_close(gradient, (start[name] + current(one)[name]) / 2, rtol=1e-4, atol=1e-6)


def test_weighted_gradients_are_added_in_place() -> None:
    new = {"a": torch.ones(2)}
    add_weighted(new, [{"a": torch.ones(2)}, {"a": torch.full((2,), 10.0)}], np.array([2.0, 0.5]))
    assert new["a"].tolist() == [8.0, 8.0]


def test_the_anchor_gradient_leaves_no_trace() -> None:
    """No .grad, and the module stays in the mode it was in."""
    model = make_llama()
    model.train()
    training = make_training(model, draw_blocks(2, seed=1))
    compute_anchor_gradients(training, training.old_data.blocks)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_anchor_gradient_does_not_depend_on_the_size_of_its_passes() -> None:
    model = make_llama()
    blocks_NT = draw_blocks(5, seed=1)
    one, other = (
        compute_anchor_gradients(make_training(model, blocks_NT, batch_size=size), blocks_NT) for size in (5, 2)
    )
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name])
    sizes = (1, 5)
    losses = [measure_anchor_loss(make_training(model, blocks_NT, batch_size=size), blocks_NT) for size in sizes]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@torch.no_grad()
def read_logits(model: torch.nn.Module, method: PackNet, task: int) -> Tensor:
    model.eval()
    with method.reading(task):
        logits: Tensor = model(input_ids=draw_blocks(2, seed=30)).logits
    return logits


def test_an_old_task_is_read_out_bit_for_bit_after_two_more(tmp_path: Path) -> None:
    """AdamW with momentum and weight decay, which move weights whose gradient is zero."""
    model = make_llama()
    method = PackNet(PackNetOptions(strength=0.6))
    readings: list[Tensor] = []
    for task in (2, 3):
        trainer = make_trainer(tmp_path / str(task), model, method, weight_decay=0.5, num_steps=3)
        method.prepare(trainer._describe_training())
        trainer.train()
        readings.append(read_logits(model, method, 1))
        if task == 2:
            second = read_logits(model, method, 2)
            kept = {name: owner == 2 for name, owner in method.owners.items()}
    assert torch.equal(readings[0], readings[1])
    assert not torch.equal(second, readings[0])
    assert any(bool(owned.any()) for owned in kept.values())
    assert method.task == 3


def test_packnet_keeps_the_largest_weights_and_zeroes_the_others() -> None:
    model = make_llama()
    name = "model.layers.0.mlp.down_proj.weight"
    before = model.get_parameter(name).detach().clone()
    method = PackNet(PackNetOptions(strength=0.75))
    method.prepare(make_training(model))
    method.measure()
    after = model.get_parameter(name).detach()
    owned = method.owners[name] != FREE
    assert int(owned.sum()) == round(0.75 * before.numel())
    assert float(before[owned].abs().min()) >= float(before[~owned].abs().max())
    assert torch.equal(after[owned], before[owned])
    assert not after[~owned].any()
    assert bool((method.owners["model.norm.weight"] == 1).all())


def test_packnet_may_start_from_the_bases_own_small_weights() -> None:
    model = make_llama()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    method = PackNet(PackNetOptions(strength=0.75, zero_freed=False))
    method.prepare(make_training(model))
    method.measure()
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_packnet_reports_what_pruning_costs_and_what_retraining_mends() -> None:
    model = make_llama(trained=[name for name, value in make_llama().named_parameters() if value.ndim == 2])
    options = PackNetOptions(strength=0.5, retrain_steps=30, retrain_learning_rate=1e-2)
    method = PackNet(options)
    method.prepare(make_training(model, draw_blocks(4, seed=1)))
    method.measure()
    assert set(method.report) == {"base", "pruned", "retrained"}
    assert method.report["retrained"] < method.report["pruned"]
    assert method.report["base"] != method.report["pruned"]
    for name, value in model.named_parameters():
        if name in method.owners:
            assert not value.detach()[method.owners[name] == FREE].any()


def test_old_data_of_several_tasks_is_drawn_per_task() -> None:
    blocks_NT = draw_blocks(9, seed=1)
    anchor = make_anchor(blocks_NT, num_tasks=3)
    for task in range(3):
        drawn = anchor.draw(3, seed=0, step=5, task=task)
        own = blocks_NT[task::3]
        assert {tuple(row) for row in drawn.tolist()} == {tuple(row) for row in own.tolist()}
    assert torch.equal(anchor.draw(4, seed=0, step=5), anchor.draw(4, seed=0, step=5))
    assert not torch.equal(anchor.draw(4, seed=0, step=5), anchor.draw(4, seed=0, step=6))
