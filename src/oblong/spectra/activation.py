"""What an element-wise activation can do to the entropy of a linear unit's output.

For Z = phi(Y) with phi differentiable almost everywhere, h(Z) <= h(Y) + sum_i E ln |phi'(Y_i)|, with equality when phi
is one-to-one. Where |phi'| <= 1 the entropy cannot grow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from scipy.special import expit, log_expit, ndtr

from oblong.errors import UserError
from oblong.spectra.spectrum import FloatArray

LEAKY_SLOPE: Final = 0.01

LOG_SLOPES: Final[Mapping[str, Callable[[FloatArray], FloatArray]]] = {
    "identity": np.zeros_like,
    "tanh": lambda y: 2 * (math.log(2) - np.abs(y) - np.log1p(np.exp(-2 * np.abs(y)))),
    "sigmoid": lambda y: log_expit(y) + log_expit(-y),
    "softplus": lambda y: log_expit(y),
    "leaky_relu": lambda y: np.where(y < 0, math.log(LEAKY_SLOPE), 0.0),
    "gelu": lambda y: np.log(np.abs(ndtr(y) + y * np.exp(-(y**2) / 2) / math.sqrt(2 * math.pi))),
    "silu": lambda y: np.log(np.abs(expit(y) * (1 + y * expit(-y)))),
}
"""ln |phi'| of every activation that the bound holds for."""

MAX_SLOPES: Final[Mapping[str, float]] = {
    "identity": 1.0,
    "tanh": 1.0,
    "sigmoid": 0.25,
    "softplus": 1.0,
    "leaky_relu": 1.0,
    "gelu": 1.12891,
    "silu": 1.09984,
}
"""max |phi'|, rounded up: GELU's at y = sqrt 2, SiLU's where y tanh(y / 2) = 2, y = 2.3994."""

REFUSED: Final[Mapping[str, str]] = {
    "relu": "ReLU maps every negative output to zero, so its output has no density and its entropy is minus infinity",
    "swiglu": "SwiGLU multiplies two outputs; it is not an element-wise function of one",
    "geglu": "GEGLU multiplies two outputs; it is not an element-wise function of one",
    "glu": "GLU multiplies two outputs; it is not an element-wise function of one",
    "softmax": "softmax mixes its inputs; it is not element-wise",
}

LOG_TINY: Final = math.log(float(np.finfo(np.float64).tiny))
NUM_NODES: Final = 4000
REACH: Final = 8.0
"""Midpoints over +-8 standard deviations. The slopes of GELU and SiLU pass through zero, where the logarithm is
singular but integrable; the midpoint rule is then good to about 1e-3 nat per unit."""


def bound_activation_entropy(
    entropy: float, *, activation: str, num_units: int, preactivation_std: FloatArray | None = None
) -> float:
    """Upper bound of h(phi(W X)), nats.

    Args:
        entropy: h(W X), nats; W must be onto.
        activation: identity, tanh, sigmoid, softplus, leaky_relu, gelu or silu.
        num_units: m, the length of W X.
        preactivation_std: Shape (m,), the standard deviations sqrt(v) ||w_i|| of the Gaussian outputs. With them the
            bound is the expectation h + sum E ln |phi'|; without, the worst case h + m ln max |phi'|.

    Raises:
        UserError: The bound says nothing about this activation (ReLU, gated units), or it is unknown.

    Source: Ludwig 2025 (v3 of the preprint). GELU and SiLU are not contractive: the bound adds their constant.
    """
    name = activation.lower()
    if name in REFUSED:
        raise UserError(f"there is no entropy bound for {activation!r}: {REFUSED[name]}")
    if name not in LOG_SLOPES:
        raise UserError(f"unknown activation {activation!r}: choose one of {', '.join(LOG_SLOPES)}")
    if preactivation_std is None:
        return entropy + num_units * math.log(MAX_SLOPES[name])
    if preactivation_std.shape != (num_units,) or not (preactivation_std > 0).all():
        raise ValueError(f"preactivation_std must be {num_units} positive numbers")
    return entropy + sum(compute_mean_log_slope(name, float(std)) for std in preactivation_std)


def compute_mean_log_slope(activation: str, std: float) -> float:
    """E ln |phi'(Y)| for Y ~ N(0, std^2), nats.

    Args:
        activation: A key of `LOG_SLOPES`.
        std: Standard deviation, positive.
    """
    width = 2 * REACH / NUM_NODES
    nodes = -REACH + width * (np.arange(NUM_NODES) + 0.5)
    weights = np.exp(-(nodes**2) / 2)
    with np.errstate(divide="ignore"):
        log_slopes: FloatArray = LOG_SLOPES[activation](np.asarray(std * nodes, dtype=np.float64))
    # Far to the left the slopes of GELU and SiLU underflow: any number below ln(tiny) keeps this an upper bound.
    return float(np.maximum(log_slopes, LOG_TINY) @ weights / weights.sum())
