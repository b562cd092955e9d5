"""Damping by the Kronecker-factored Fisher information: its factors, the damped step, and what it is good for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oblong.methods.damped_updates import decompose
from oblong.methods.kfac_damping import Basis, KfacDamping, measure_output_fisher, shrink
from oblong.methods.null_space import NullSpace
from oblong.methods.options import KfacDampingOptions, NullSpaceOptions
from oblong.methods.protocol import Method
from tests.method_builders import Output, draw_blocks, make_llama, make_trainer, make_training

BLOCKS = draw_blocks(6, seed=9)  # the trainer's old data
DOWN = "model.layers.0.mlp.down_proj.weight"


class Reader(nn.Module):
    """An embedding, one linear layer and the softmax: the Fisher information of its outputs has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(5, 4).requires_grad_(False)
        self.head = nn.Linear(4, 5, bias=False)

    def forward(self, input_ids: Tensor, **_: Any) -> Output:
        return Output(logits=self.head(2 * self.embed(input_ids)))


def test_the_output_factor_is_the_fisher_information() -> None:
    """At the logits E g g' = diag(p) - p p', averaged over tokens; the last token of a block predicts nothing."""
    model = Reader()
    blocks = draw_blocks(600, seed=1, vocabulary=5)
    training = make_training(model, blocks)
    measured = measure_output_fisher(training, {"head.weight": model.head})["head.weight"]
    p = torch.softmax(model(blocks[:, :-1]).logits.detach(), -1).reshape(-1, 5).double().numpy()
    expected = (np.diag(p.sum(0)) - p.T @ p) / blocks.numel()
    np.testing.assert_allclose(measured.numpy(), expected, atol=0.004)
    assert np.abs(expected).max() > 0.1


def test_factors_end_with_the_blocks_asked_for() -> None:
    model = Reader()
    first = measure_output_fisher(make_training(model, BLOCKS[:2] % 5), {"head.weight": model.head})
    limited = measure_output_fisher(make_training(model, BLOCKS % 5), {"head.weight": model.head}, limit=2)
    torch.testing.assert_close(first, limited, rtol=0, atol=0)


def test_the_damped_update_is_the_proximal_step() -> None:
    """By solving (I + s A/a (x) G/b) vec(D) = vec(U) directly."""
    rng = np.random.default_rng(0)
    inputs, outputs = rng.normal(size=(50, 6)) * [9, 3, 1, 1, 0.3, 0.1], rng.normal(size=(50, 4)) * [5, 1, 0.5, 0.2]
    update, strength = rng.normal(size=(4, 6)), 3.0
    a, g = inputs.T @ inputs / 50, outputs.T @ outputs / 50
    # torch's median is the lower of the two in the middle
    fisher = np.kron(g / np.sort(np.linalg.eigvalsh(g))[1], a / np.sort(np.linalg.eigvalsh(a))[2])
    expected = np.linalg.solve(np.eye(24) + strength * fisher, update.reshape(-1)).reshape(4, 6)
    basis = Basis(outputs=shrink(decompose(torch.tensor(g))), inputs=shrink(decompose(torch.tensor(a))))
    damped = basis.damp(torch.tensor(update, dtype=torch.float32), strength)
    np.testing.assert_allclose(damped.numpy(), expected, atol=1e-5)


def test_where_the_output_factor_is_the_identity_it_is_the_null_space() -> None:
    covariance = torch.diag(torch.tensor([4.0, 1.0, 0.25]))
    basis = Basis(outputs=shrink(decompose(torch.eye(2))), inputs=shrink(decompose(covariance)))
    update = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]])
    torch.testing.assert_close(basis.damp(update, 10.0), update / (1 + 10 * torch.tensor([4.0, 1.0, 0.25])))


@torch.no_grad()
def predict(model: Any) -> Tensor:
    """Log-probabilities on the old blocks."""
    return torch.log_softmax(model.eval()(input_ids=BLOCKS).logits, -1)


def measure_divergence(tmp_path: Path, method: Method) -> float:
    """KL(base || tuned) on the old blocks per squared length of the update."""
    model = make_llama()
    before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    base = predict(model)
    make_trainer(tmp_path, model, method).train()
    tuned = predict(model)
    with torch.no_grad():
        moved = sum(((model.get_parameter(name) - value) ** 2).sum() for name, value in before.items())
    divergence = (base.exp() * (base - tuned)).sum(-1).mean()
    return float(divergence / moved)


def test_the_base_diverges_less_for_the_same_length_of_update(tmp_path: Path) -> None:
    """And less than where the layers' outputs alone are held."""
    plain = measure_divergence(tmp_path / "plain", KfacDamping(KfacDampingOptions(strength=0.0)))
    held = measure_divergence(tmp_path / "held", KfacDamping(KfacDampingOptions(strength=1e3)))
    inputs = measure_divergence(tmp_path / "inputs", NullSpace(NullSpaceOptions(strength=1e3)))
    assert held < 0.7 * plain
    assert held < inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stored_weights_keep_their_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    model: Any = make_llama()
    model.to(dtype)
    make_trainer(tmp_path, model, KfacDamping(KfacDampingOptions())).train()
    assert model.get_parameter(DOWN).dtype == dtype
    assert model.get_parameter(DOWN).isfinite().all()
