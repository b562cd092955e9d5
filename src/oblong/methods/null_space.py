"""Updates damped along the inputs that old data uses: a soft projection onto the null space of old features.

    C = mean of x x' over the inputs x of a linear layer on old data,   n x n
    P = (I + strength C / c)^-1,   c the median of C's eigenvalues above rounding
    W <- W_before + (W_after - W_before) P                                  after every optimizer step

P is what the proximal step makes of the optimizer's update U:

    U P = argmin over D of |D - U|^2 + (strength / c) E_old |D x|^2

so the layer's output on old data moves as little as the update's length allows; strength -> infinity leaves the null
space of C alone. The median makes the strength comparable between layers: the mean is ruled by the few directions of
massive activations. P is symmetric and the same in every step, so W - W_base = (sum of the updates) P.

Source: Adam-NSCL (Wang et al. 2021, "Training networks in null space of feature covariance for continual learning",
Eq. 10), which projects onto the eigenvectors of the smallest eigenvalues; the damped inverse is that of OWM (Zeng et
al. 2019, "Continual learning of context-dependent processing in neural networks", Eq. 1). With old data that the base
generates itself nothing but the checkpoint is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from oblong.methods.base_model import evaluation_mode
from oblong.methods.damped_updates import DampedUpdates, decompose
from oblong.methods.protocol import Sizes, Training


class NullSpace(DampedUpdates):
    """Damps updates along the inputs of each layer."""

    def measure_layers(self, layers: Mapping[str, nn.Linear]) -> Collection[str]:
        """Make P for each layer."""
        covariances = measure_input_covariances(self.training, layers, limit=self.options.blocks)
        # Layers that read the same input share one matrix.
        shared = {id(covariance): covariance for covariance in covariances.values()}
        damping = {key: compute_damping(value, self.options.strength) for key, value in shared.items()}
        self._damping = {name: damping[id(covariance)] for name, covariance in covariances.items()}
        return self._damping

    def damp(self, name: str, update: Tensor) -> Tensor:
        """U P."""
        return update @ self._damping[name]

    def forecast_bytes(self, sizes: Sizes) -> int:
        """The weights before a step, one matrix P for those that share an input, and one decomposition at a time.

        P is n x n for a matrix of m x n: as large as the matrix where the layer is square.
        """
        return 4 * 2 * sizes.num_trained + 24 * sizes.largest_matrix


@torch.no_grad()
def measure_input_covariances(
    training: Training, layers: Mapping[str, nn.Linear], *, limit: int | None = None
) -> dict[str, Tensor]:
    """The uncentred covariance of each layer's inputs on old data.

    Args:
        training: the model at the base's weights, and the old data.
        layers: linear layers by name.
        limit: at most so many blocks of the old data.

    Returns:
        By name, n x n, float32; layers that are called with the very same tensor share one matrix.
    """
    collector = _Collector()
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(collector.make_hook(name)).remove)
        stack.enter_context(evaluation_mode(training.model))
        for block_1T in training.old_data.iterate(limit=limit):
            with training.autocast():
                training.model(input_ids=block_1T.to(training.device), use_cache=False)
            collector.end_pass()
    return collector.read()


class _Collector:
    """Sums of x x', one for each distinct input tensor of the first pass."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._inputs: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def make_hook(self, name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            self._see(name, arguments[0])

        return hook

    def _see(self, name: str, inputs: Tensor) -> None:
        # The inputs of a pass are kept until its end, so that two different ones cannot have one identity.
        twins = (other for other, seen in self._inputs.items() if seen is inputs)
        first = self._first.setdefault(name, next(twins, name))
        self._inputs[name] = inputs
        if first != name:
            return
        rows_TN = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        with torch.autocast(inputs.device.type, enabled=False):  # or the product would be rounded to bfloat16
            product = rows_TN.T @ rows_TN
        self._sums[name] = product if name not in self._sums else self._sums[name] + product
        self._counts[name] = self._counts.get(name, 0) + len(rows_TN)

    def end_pass(self) -> None:
        self._inputs = {}

    def read(self) -> dict[str, Tensor]:
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        return {name: means[first] for name, first in self._first.items()}


def compute_damping(covariance: Tensor, strength: float) -> Tensor:
    """P = (I + strength C / c)^-1, n x n, of C's dtype.

    c is the median of the eigenvalues that float32 can tell from zero; directions of the others are not damped at all.
    """
    eigen = decompose(covariance)
    damping: Tensor = (eigen.vectors / (1.0 + strength * eigen.values)) @ eigen.vectors.T
    return damping.to(covariance.dtype)
