"""The soft projection onto the null space of old inputs: covariances, the damping matrix and what training leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oblong.errors import MethodError
from oblong.methods.damped_updates import find_linear_layers
from oblong.methods.null_space import NullSpace, compute_damping, measure_input_covariances
from oblong.methods.options import NullSpaceOptions
from oblong.methods.protocol import Training
from tests.method_builders import draw_blocks, make_llama, make_trainer, make_training

BLOCKS = draw_blocks(6, seed=9)  # the trainer's old data
DOWN = "model.layers.0.mlp.down_proj.weight"


def make_whole_training() -> Training:
    model = make_llama()
    return make_training(model.requires_grad_(True), BLOCKS)


def record_inputs(model: Any, module: Any, blocks: Any) -> np.ndarray:
    """Inputs of one layer on old data, tokens x n, by a hook of the test's own, all blocks in one batch."""
    seen: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(input_ids=blocks)
    handle.remove()
    return np.asarray(seen[0].flatten(0, 1).double().numpy())


def test_covariances_are_those_of_the_layers_inputs() -> None:
    training = make_whole_training()
    layers = find_linear_layers(training.model, training.trained)
    covariances = measure_input_covariances(training, layers)
    for name in (DOWN, "model.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn.o_proj.weight"):
        inputs = record_inputs(training.model, layers[name], training.old_data.blocks)
        np.testing.assert_allclose(covariances[name].numpy(), inputs.T @ inputs / len(inputs), rtol=1e-4, atol=1e-6)


def test_under_autocast_the_sums_stay_in_float32() -> None:
    training = replace(make_whole_training(), autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    covariances = measure_input_covariances(training, find_linear_layers(training.model, training.trained))
    assert {matrix.dtype for matrix in covariances.values()} == {torch.float32}
    matrix = covariances[DOWN]
    assert not torch.equal(matrix, matrix.bfloat16().float())


def test_layers_that_read_the_same_input_share_one_matrix() -> None:
    training = make_whole_training()
    covariances = measure_input_covariances(training, find_linear_layers(training.model, training.trained))
    of = {name.removeprefix("model.layers.0."): matrix for name, matrix in covariances.items()}
    assert of["self_attn.q_proj.weight"] is of["self_attn.k_proj.weight"] is of["self_attn.v_proj.weight"]
    assert of["mlp.gate_proj.weight"] is of["mlp.up_proj.weight"]
    assert of["self_attn.o_proj.weight"] is not of["self_attn.q_proj.weight"]


def test_the_damped_update_is_the_proximal_one() -> None:
    """By least squares: |D - U|^2 + (s / c) E |D x|^2 is the residual of D [I, X sqrt(s / (c T))] = [U, 0]."""
    rng = np.random.default_rng(0)
    inputs, update, strength = rng.normal(size=(40, 6)) * np.array([9, 3, 1, 1, 0.3, 0.1]), rng.normal(size=(4, 6)), 2.0
    covariance = inputs.T @ inputs / len(inputs)
    scale = np.sort(np.linalg.eigvalsh(covariance))[2]  # torch's median is the lower of the two in the middle
    system = np.vstack([np.eye(6), inputs * np.sqrt(strength / scale / len(inputs))])
    wanted = np.vstack([update.T, np.zeros((len(inputs), 4))])
    expected = np.linalg.lstsq(system, wanted, rcond=None)[0].T
    damping = compute_damping(torch.tensor(covariance), strength)
    np.testing.assert_allclose(update @ damping.numpy(), expected, atol=1e-10)


def test_a_covariance_of_low_rank_damps_its_range_alone() -> None:
    direction = torch.tensor([3.0, 4.0, 0.0, 0.0]) / 5
    damping = compute_damping(torch.outer(direction, direction), 10.0)
    torch.testing.assert_close(damping @ direction, direction / 11)  # it is its own median
    free = torch.tensor([4.0, -3.0, 1.0, 2.0])
    torch.testing.assert_close(damping @ free, free, atol=1e-5, rtol=0)


def test_old_outputs_move_less_the_stronger_it_is(tmp_path: Path) -> None:
    moved = []
    for strength in (0.0, 10.0, 1e6):
        model = make_llama()
        layer = model.get_submodule(DOWN.removesuffix(".weight"))
        inputs = record_inputs(model, layer, BLOCKS)
        before = model.get_parameter(DOWN).detach().double().numpy().copy()
        make_trainer(tmp_path / str(strength), model, NullSpace(NullSpaceOptions(strength=strength))).train()
        update = model.get_parameter(DOWN).detach().double().numpy() - before
        moved.append(np.linalg.norm(inputs @ update.T) / np.linalg.norm(update))
    assert moved[1] < 0.7 * moved[0]
    assert moved[2] < moved[1]


def test_a_plan_without_linear_layers_is_refused() -> None:
    model = make_llama()
    training = Training(model=model, trained={"model.norm.weight": model.get_parameter("model.norm.weight")})
    with pytest.raises(MethodError, match="linear layers"):
        NullSpace(NullSpaceOptions()).prepare(training)


def test_a_tied_weight_is_left_free() -> None:
    model = make_llama()
    model.lm_head.weight = model.model.embed_tokens.weight
    found = find_linear_layers(model, dict(model.named_parameters()))
    assert "model.embed_tokens.weight" not in found
    assert DOWN in found
