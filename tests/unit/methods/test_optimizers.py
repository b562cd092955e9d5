"""CLASSP against Adagrad and its author's rule; MoFO, SVB, eigenvalue decay, freezing and WiSE-FT by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oblong.errors import MethodError
from oblong.methods.classp import Classp, ClasspMethod
from oblong.methods.eigenvalue_decay import EigenvalueDecay, iterate_power
from oblong.methods.freeze_bottom import FreezeBottom
from oblong.methods.half_fine_tuning import HalfFineTuning, draw_frozen
from oblong.methods.mofo import Mofo, choose_largest
from oblong.methods.options import (
    ClasspOptions,
    EigenvalueDecayOptions,
    FreezeBottomOptions,
    HalfFineTuningOptions,
    MofoOptions,
    SvbOptions,
    WiseFtOptions,
)
from oblong.methods.svb import SingularValueBounding, bound
from oblong.methods.wise_ft import WiseFt, interpolate, trace_curve
from tests.method_builders import draw_blocks, make_bigram, make_llama, make_training


def draw_gradients(num_steps: int, shape: tuple[int, ...] = (4, 3)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float32) for _ in range(num_steps)]


def run(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, gradients: list[Tensor]) -> Tensor:
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def test_classp_with_no_threshold_and_power_two_is_adagrad() -> None:
    """As epsilon vanishes: it sits inside the root here, outside in torch."""
    ours, theirs = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4, 3))
    options = ClasspOptions(threshold=0.0, power=2.0, epsilon=1e-20)
    gradients = draw_gradients(8)
    one = run(Classp([ours], 0.1, options), ours, gradients)
    other = run(torch.optim.Adagrad([theirs], lr=0.1, eps=1e-20), theirs, gradients)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("threshold", "power", "scaling"), [(0.5, 1.0, True), (0.2, 3.0, True), (0.5, 1.0, False)])
def test_classp_paper_mode_is_the_published_rule(threshold: float, power: float, scaling: bool) -> None:
    parameter = nn.Parameter(torch.ones(4, 3))
    options = ClasspOptions(threshold=threshold, power=power, epsilon=1e-5, scaling=scaling)
    found = run(Classp([parameter], 0.1, options), parameter, draw_gradients(6))
    weights, sums = np.ones((4, 3)), np.zeros((4, 3))
    for gradient in (value.double().numpy() for value in draw_gradients(6)):
        for place in np.ndindex(4, 3):
            if gradient[place] ** 2 > threshold:
                sums[place] += abs(gradient[place]) ** power
                scale = (1e-5 + sums[place]) ** (1 / power) if scaling else 1.0
                weights[place] -= 0.1 * gradient[place] / scale
    np.testing.assert_allclose(found.numpy(), weights, rtol=1e-5)


@pytest.mark.parametrize(("threshold", "power"), [(0.5, 1.0), (0.5, 2.0), (1.0, 1.0)])
def test_classp_reference_mode_is_what_its_authors_code_computes(threshold: float, power: float) -> None:
    """A truth value against the threshold; sums of |g| under any power; the first group's learning rate for all."""
    first, second = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4, 3))
    optimizer = Classp(
        [{"params": [first]}, {"params": [second], "lr": 9.0}],
        0.1,
        ClasspOptions(mode="reference", threshold=threshold, power=power),
    )
    gradients = draw_gradients(5)
    gradients[2] = torch.zeros(4, 3)
    for gradient in gradients:
        first.grad, second.grad = gradient.clone(), gradient.clone()
        optimizer.step()
    weights, sums = torch.ones(4, 3), torch.zeros(4, 3)
    for gradient in gradients:
        if (gradient**2).any() > threshold:
            sums += gradient.abs()
            weights -= 0.1 / (sums + 1e-5).pow(1 / power) * gradient
    torch.testing.assert_close(first.detach(), weights)
    torch.testing.assert_close(second.detach(), weights)
    assert torch.equal(weights, torch.ones(4, 3)) == (threshold >= 1)


def test_classp_quantile_updates_the_share_above_it() -> None:
    parameter = nn.Parameter(torch.zeros(10, 10))
    options = ClasspOptions(threshold="q0.9")
    gradient = torch.randn(10, 10, generator=torch.Generator().manual_seed(0)) * 1e-6
    moved = run(Classp([parameter], 0.1, options), parameter, [gradient]) != 0
    assert int(moved.sum()) == 10
    assert float(gradient[moved].abs().min()) > float(gradient[~moved].abs().max())


def test_sums_filled_from_old_data_make_the_first_steps_small() -> None:
    """By hand: the sums of |g| over anchor blocks divide the first update."""
    model = make_bigram()
    training = make_training(model, draw_blocks(3, seed=1, vocabulary=5))
    method = ClasspMethod(ClasspOptions(threshold=0.0, anchor_blocks=3))
    method.prepare(training)
    method.measure()
    optimizer = method.build_optimizer([{"params": [model.weight], "weight_decay": 0.0}], 0.1)
    assert optimizer is not None
    sums = torch.zeros_like(model.weight)
    for block_1T in training.old_data.iterate():
        logits = model(block_1T).logits[0, :-1]
        loss = nn.functional.cross_entropy(logits, block_1T[0, 1:])
        sums += torch.autograd.grad(loss, model.weight)[0].abs()
    before = model.weight.detach().clone()
    model.weight.grad = torch.ones_like(before)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before - 0.1 / (sums + 1.0 + 1e-5))


def test_classp_goes_on_exactly_from_a_checkpoint_of_bfloat16_parameters() -> None:
    """Torch casts what it loads to the parameters' dtype, where a sum soon stops growing; ours stay float32."""
    gradients = [value.bfloat16() for value in draw_gradients(8)]
    straight, cut = (nn.Parameter(torch.ones(4, 3, dtype=torch.bfloat16)) for _ in range(2))
    one = Classp([straight], 0.1, ClasspOptions())
    run(one, straight, gradients)
    first = Classp([cut], 0.1, ClasspOptions())
    run(first, cut, gradients[:4])
    second = Classp([cut], 0.1, ClasspOptions())
    second.load_state_dict(first.state_dict())
    run(second, cut, gradients[4:])
    assert second.state[cut]["sum"].dtype == torch.float32
    assert torch.equal(second.state[cut]["sum"], one.state[straight]["sum"])
    assert torch.equal(cut.detach(), straight.detach())


def test_classp_refuses_what_it_does_not_have() -> None:
    method = ClasspMethod(ClasspOptions())
    method.prepare(make_training(make_bigram()))
    with pytest.raises(MethodError, match="no weight decay"):
        method.build_optimizer([{"params": [], "weight_decay": 0.1}], 0.1)
    with pytest.raises(MethodError, match="truth value"):
        Classp([nn.Parameter(torch.ones(2))], 0.1, ClasspOptions(mode="reference"))
    with pytest.raises(MethodError, match="give an anchor"):
        unfed = ClasspMethod(ClasspOptions(anchor_blocks=2))
        unfed.prepare(make_training(make_bigram()))
        unfed.measure()


def test_mofo_is_adam_whose_step_is_filtered_by_momentum() -> None:
    """An Adam of our own in numpy: moments of all weights, the step for the largest |m| alone."""
    model = make_bigram()
    method = Mofo(MofoOptions(strength=0.8))
    method.prepare(make_training(model))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    weights = model.weight.detach().double().numpy().copy()
    m = v = np.zeros_like(weights)
    for step, gradient in enumerate(draw_gradients(6, (5, 5)), start=1):
        model.weight.grad = gradient.clone()
        method.change_gradients()
        optimizer.step()
        method.after_step(optimizer)
        g = gradient.double().numpy()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        moving = np.abs(m) >= np.sort(np.abs(m).ravel())[-5]
        weights -= moving * 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(model.weight.detach().numpy(), weights, rtol=1e-4, atol=1e-6)


def test_mofo_chooses_exactly_its_share_also_among_equals() -> None:
    assert int(choose_largest(torch.ones(10, 10), 0.1).sum()) == 10
    assert bool(choose_largest(torch.zeros(7), 1.0).all())


def test_mofo_needs_a_first_moment() -> None:
    model = make_bigram()
    method = Mofo(MofoOptions())
    method.prepare(make_training(model))
    model.weight.grad = torch.ones_like(model.weight)
    method.change_gradients()
    with pytest.raises(MethodError, match="first moment"):
        method.after_step(torch.optim.SGD(model.parameters(), lr=0.1))


def draw_matrix(values: list[float], rows: int = 6, columns: int = 4, seed: int = 0) -> Tensor:
    generator = np.random.default_rng(seed)
    left = np.linalg.qr(generator.normal(size=(rows, rows)))[0][:, : len(values)]
    right = np.linalg.qr(generator.normal(size=(columns, columns)))[0][:, : len(values)]
    return torch.tensor((left * values) @ right.T, dtype=torch.float32)


def test_bounded_singular_values_lie_in_the_band_and_vectors_stay() -> None:
    matrix = draw_matrix([3.0, 1.02, 0.5, 0.1])
    low, high = torch.full((4,), 1 / 1.05), torch.full((4,), 1.05)
    found = np.linalg.svd(bound(matrix, low, high).double().numpy())
    np.testing.assert_allclose(found.S, [1.05, 1.02, 1 / 1.05, 1 / 1.05], rtol=1e-5)
    assert found.S[0] / found.S[-1] <= 1.05**2 * (1 + 1e-5)
    overlap = abs(found.U[:, 0] @ np.linalg.svd(matrix.double().numpy()).U[:, 0])
    assert overlap == pytest.approx(1.0, abs=1e-4)


def test_a_matrix_in_its_band_stays_bit_for_bit() -> None:
    matrix = draw_matrix([1.0, 0.99, 0.98, 0.97])
    low, high = torch.full((4,), 0.9), torch.full((4,), 1.1)
    assert torch.equal(bound(matrix, low, high), matrix)


@pytest.mark.parametrize("mode", ["relative", "paper"])
def test_svb_projects_every_so_many_steps(mode: str) -> None:
    model = make_llama()
    name = "model.layers.0.mlp.down_proj.weight"
    base = np.linalg.svd(model.get_parameter(name).detach().double().numpy(), compute_uv=False)
    method = SingularValueBounding(SvbOptions(mode=mode, epsilon=0.05, every=2))
    method.prepare(make_training(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.no_grad():
        model.get_parameter(name).mul_(3.0)
    far = model.get_parameter(name).detach().clone()
    method.after_step(optimizer)
    assert torch.equal(model.get_parameter(name).detach(), far)
    method.after_step(optimizer)
    found = np.linalg.svd(model.get_parameter(name).detach().double().numpy(), compute_uv=False)
    centre = base if mode == "relative" else np.ones_like(base)
    assert (found <= centre * 1.05 * (1 + 1e-4)).all()
    assert (found >= centre / 1.05 * (1 - 1e-4)).all()


def test_svb_ends_in_its_band_whenever_training_ends() -> None:
    """A run shorter than `every`, or one that goes on after the last projection; a look at it changes nothing."""
    model = make_llama()
    name = "model.layers.0.mlp.down_proj.weight"
    base = np.linalg.svd(model.get_parameter(name).detach().double().numpy(), compute_uv=False)
    method = SingularValueBounding(SvbOptions(epsilon=0.05, every=50))
    method.prepare(make_training(model))
    with torch.no_grad():
        model.get_parameter(name).mul_(3.0)
    far = model.get_parameter(name).detach().clone()
    method.after_step(torch.optim.SGD(model.parameters(), lr=0.1))
    with method.as_if_finished():
        looked_at = model.get_parameter(name).detach().clone()
    assert torch.equal(model.get_parameter(name).detach(), far)
    method.finish()
    assert torch.equal(model.get_parameter(name).detach(), looked_at)
    found = np.linalg.svd(looked_at.double().numpy(), compute_uv=False)
    assert (found <= base * 1.05 * (1 + 1e-4)).all()
    assert (found >= base / 1.05 * (1 - 1e-4)).all()


def test_svb_projects_no_second_time_after_the_same_step() -> None:
    model = make_llama()
    name = "model.layers.0.mlp.down_proj.weight"
    method = SingularValueBounding(SvbOptions(every=1))
    method.prepare(make_training(model))
    with torch.no_grad():
        model.get_parameter(name).mul_(3.0)
    method.after_step(torch.optim.SGD(model.parameters(), lr=0.1))
    projected = model.get_parameter(name).detach().clone()
    method.finish()
    assert torch.equal(model.get_parameter(name).detach(), projected)


def test_eigenvalue_decay_has_the_gradient_of_the_largest_singular_value() -> None:
    """Against autograd through torch's own singular values."""
    model = make_bigram()
    method = EigenvalueDecay(EigenvalueDecayOptions(strength=0.3, target="weights", iterations=300))
    method.prepare(make_training(model))
    model.weight.grad = torch.zeros_like(model.weight)
    method.change_gradients()
    (expected,) = torch.autograd.grad(0.3 * torch.linalg.matrix_norm(model.weight, 2), model.weight)
    torch.testing.assert_close(model.weight.grad, expected, rtol=1e-4, atol=1e-5)


def test_eigenvalue_decay_of_the_update_ignores_the_base() -> None:
    model = make_bigram()
    method = EigenvalueDecay(EigenvalueDecayOptions(strength=0.3, iterations=300))
    method.prepare(make_training(model))
    model.weight.grad = torch.zeros_like(model.weight)
    method.change_gradients()
    assert not model.weight.grad.any()
    update = draw_matrix([2.0, 1.0, 0.5, 0.2], 5, 5)
    with torch.no_grad():
        model.weight.add_(update)
    method.change_gradients()
    left, _, right = np.linalg.svd(update.double().numpy())
    np.testing.assert_allclose(model.weight.grad.numpy(), 0.3 * np.outer(left[:, 0], right[0]), atol=1e-4)


def test_power_iteration_goes_on_where_it_stopped() -> None:
    """Ones are orthogonal to this leading vector; a start from the last step's vector needs no further iterations."""
    matrix = torch.tensor([[2.0, -2.0], [0.1, 0.1]])
    start = torch.tensor([0.3, 0.9])
    _, _, vector = iterate_power(matrix, start, 50)
    left, sigma, again = iterate_power(matrix, vector, 1)
    assert float(sigma) == pytest.approx(8**0.5, rel=1e-5)
    torch.testing.assert_close(vector, again)
    assert float(iterate_power(matrix, torch.ones(2), 50)[1]) < 1.0
    assert float(left.norm()) == pytest.approx(1.0, rel=1e-5)


def test_power_iteration_of_zero_keeps_its_start() -> None:
    left, sigma, vector = iterate_power(torch.zeros(3, 2), torch.tensor([0.6, 0.8]), 9)
    assert float(sigma) == 0
    assert not left.any()
    assert vector.tolist() == pytest.approx([0.6, 0.8])


def test_half_of_the_tensors_of_each_role_is_frozen() -> None:
    names = tuple(f"model.layers.{layer}.self_attn.{role}_proj.weight" for layer in range(6) for role in "qkv")
    frozen = draw_frozen(names, 0.5, seed=0)
    for role in "qkv":
        assert sum(f".{role}_proj" in name for name in frozen) == 3
    assert draw_frozen(names, 0.5, seed=0) == frozen
    assert draw_frozen(names, 0.5, seed=1) != frozen
    assert draw_frozen(names, 0.0, seed=0) == frozenset()


def test_frozen_tensors_stay_bit_for_bit_under_momentum_and_decay() -> None:
    model = make_llama()
    method = FreezeBottom(FreezeBottomOptions(strength=0.5))
    method.prepare(make_training(model))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.5)
    for _ in range(3):
        for value in trained:
            value.grad = torch.ones_like(value)
        method.change_gradients()
        optimizer.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"model.layers.1.self_attn.v_proj.weight", "model.norm.weight"}


def test_the_frozen_half_is_drawn_anew_in_every_stage() -> None:
    names = [name for name, value in make_llama().named_parameters() if value.ndim == 2]
    method = HalfFineTuning(HalfFineTuningOptions(stage_steps=3))
    method.prepare(make_training(make_llama(trained=names)))
    assert method.choose_frozen(0) == method.choose_frozen(2)
    assert method.choose_frozen(2) != method.choose_frozen(3)


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(MethodError, match="every tensor"):
        FreezeBottom(FreezeBottomOptions(strength=0.5)).prepare(
            make_training(make_llama(trained=["model.layers.0.mlp.down_proj.weight"]))
        )


def test_interpolation_is_exact_at_its_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    base, tuned = ({"w": torch.randn(50, generator=generator)} for _ in range(2))
    assert torch.equal(interpolate(base, tuned, alpha=0.0)["w"], base["w"])
    assert torch.equal(interpolate(base, tuned, alpha=1.0)["w"], tuned["w"])
    torch.testing.assert_close(interpolate(base, tuned, alpha=0.25)["w"], 0.75 * base["w"] + 0.25 * tuned["w"])


def test_the_curve_measures_every_alpha_and_leaves_the_tuned_model() -> None:
    model = make_bigram()
    base = {"weight": torch.zeros_like(model.weight)}
    tuned = model.weight.detach().clone()
    curve = trace_curve(
        dict(model.named_parameters()), base, lambda: float(model.weight.detach().abs().sum()), alphas=(0.0, 0.5, 1.0)
    )
    total = float(tuned.abs().sum())
    assert list(curve) == [0.0, 0.5, 1.0]
    assert list(curve.values()) == pytest.approx([0.0, total / 2, total], rel=1e-5)
    assert torch.equal(model.weight.detach(), tuned)


def test_wise_ft_ends_part_of_the_way_back() -> None:
    model = make_bigram()
    method = WiseFt(WiseFtOptions(strength=0.25))
    method.prepare(make_training(model))
    base = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    method.finish()
    torch.testing.assert_close(model.weight.detach(), base + 0.75)
