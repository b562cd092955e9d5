"""Entropy bounds of activations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from oblong.errors import UserError
from oblong.spectra import bound_activation_entropy
from oblong.spectra.activation import LOG_SLOPES, MAX_SLOPES, compute_mean_log_slope
from tests import tolerances

TORCH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "leaky_relu": torch.nn.functional.leaky_relu,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
}


@pytest.mark.parametrize("activation", TORCH)
def test_slopes_agree_with_autograd(activation: str) -> None:
    y = torch.linspace(-6.0, 6.0, 4001, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(TORCH[activation](y).sum(), y)
    ours = np.exp(LOG_SLOPES[activation](y.detach().numpy()))
    np.testing.assert_allclose(ours, slopes.abs().numpy(), rtol=tolerances.FLOAT64, atol=tolerances.FLOAT64)
    assert slopes.max().item() <= MAX_SLOPES[activation]
    assert slopes.max().item() == pytest.approx(MAX_SLOPES[activation], rel=0.01)


def test_leaky_relu_by_hand() -> None:
    """Half of the outputs are negative: E ln |phi'| = 1/2 ln 0.01."""
    assert compute_mean_log_slope("leaky_relu", 3.0) == pytest.approx(math.log(0.01) / 2, rel=tolerances.FLOAT64)


def test_tanh_of_small_outputs_by_hand() -> None:
    """ln(1 - tanh^2 y) = -y^2 + y^4 / 6 - ..., so E = -s^2 + s^4 / 2 for small s."""
    assert compute_mean_log_slope("tanh", 0.1) == pytest.approx(-0.01 + 0.00005, abs=1e-6)


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_slopes_through_zero_are_integrated(activation: str) -> None:
    draws = np.random.default_rng(0).standard_normal(4_000_000)
    with np.errstate(divide="ignore"):
        sampled = LOG_SLOPES[activation](2.0 * draws).mean()
    assert compute_mean_log_slope(activation, 2.0) == pytest.approx(sampled, abs=5 * tolerances.LOG_SLOPE)


@pytest.mark.parametrize("activation", LOG_SLOPES)
def test_expectation_is_below_the_worst_case(activation: str) -> None:
    stds = np.array([0.1, 1.0, 40.0])
    mean = bound_activation_entropy(5.0, activation=activation, num_units=3, preactivation_std=stds)
    worst = bound_activation_entropy(5.0, activation=activation, num_units=3)
    assert math.isfinite(mean)
    assert mean <= worst


def test_contractive_activations_cannot_add_entropy() -> None:
    assert bound_activation_entropy(2.5, activation="tanh", num_units=7) == 2.5
    gelu = bound_activation_entropy(2.5, activation="GELU", num_units=10)
    assert gelu == pytest.approx(2.5 + 10 * math.log(1.1289), abs=tolerances.LOG_SLOPE)


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        ("relu", "no density"),
        ("SwiGLU", "not an element-wise"),
        ("softmax", "not element-wise"),
        ("mish", "choose one"),
    ],
)
def test_says_why_there_is_no_bound(activation: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        bound_activation_entropy(1.0, activation=activation, num_units=1)


@pytest.mark.parametrize("stds", [np.array([1.0]), np.array([1.0, 0.0])], ids=["too few", "zero"])
def test_refuses_impossible_deviations(stds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    with pytest.raises(ValueError, match="2 positive numbers"):
        bound_activation_entropy(1.0, activation="tanh", num_units=2, preactivation_std=stds)
