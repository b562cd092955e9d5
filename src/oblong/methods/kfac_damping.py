"""Updates damped where they would change what the base says: by the Kronecker-factored Fisher information of old data.

    A = E x x',  G = E g g'     x the inputs of a linear layer, g = d log p(y | context) / d (its outputs), y ~ p
    A = V diag(a) V',  G = Q diag(b) Q'                                                    n x n and m x m
    D = Q [ (Q' U V) / (1 + strength b a' / c) ] V',   c = median(b) median(a)             U the optimizer's update

D is the proximal step of the divergence from the base, to second order and with F = G (x) A for each layer:

    D = argmin |D - U|^2 + (strength / c) vec(D)' F vec(D),   E KL(base || W + D) ~ vec(D)' F vec(D) / 2

`null_space` is the case G = I: it keeps the layer's outputs, whether or not the model's answer depends on them. The
damping is the same in every step, so the sum of the updates is damped as each one is. Labels are drawn from the model,
so F is the Fisher information and not the empirical one.

Source: the factors are those of K-FAC (Martens & Grosse 2015, "Optimizing neural networks with Kronecker-factored
approximate curvature", Sec. 3) and their use against forgetting that of Ritter et al. 2018 ("Online structured Laplace
approximations for overcoming catastrophic forgetting", Eq. 8), who add the quadratic form to the loss. Here it bounds
the step instead, as in `null_space`, which needs no gradient of a penalty and cannot diverge at large strengths.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oblong.methods.base_model import evaluation_mode
from oblong.methods.damped_updates import DampedUpdates, Eigen, decompose
from oblong.methods.ewc import draw_labels
from oblong.methods.null_space import measure_input_covariances
from oblong.methods.protocol import Sizes, Training
from oblong.methods.token_losses import compute_token_losses, select_predicted


class KfacDamping(DampedUpdates):
    """Damps updates along pairs of an input and an output direction that the base's answers depend on."""

    def measure_layers(self, layers: Mapping[str, nn.Linear]) -> Collection[str]:
        """Estimate both factors of each layer and decompose them."""
        inputs = measure_input_covariances(self.training, layers, limit=self.options.blocks)
        outputs = measure_output_fisher(self.training, layers, limit=self.options.blocks)
        # Layers that read the same input share one factor.
        shared = {id(covariance): shrink(decompose(covariance)) for covariance in inputs.values()}
        self._bases = {
            name: Basis(outputs=shrink(decompose(moment)), inputs=shared[id(inputs[name])])
            for name, moment in outputs.items()
        }
        return self._bases

    def damp(self, name: str, update: Tensor) -> Tensor:
        """D of the module's docstring."""
        return self._bases[name].damp(update, self.options.strength)

    def forecast_bytes(self, sizes: Sizes) -> int:
        """The weights before a step, the eigenvectors of both sides, and one decomposition at a time.

        The sides of a matrix of m x n take m x m and n x n: four times it where one is three and a half times the
        other, as in feed-forward layers; twice where it is square.
        """
        return 4 * 5 * sizes.num_trained + 24 * 4 * sizes.largest_matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The eigenvectors of both factors of one layer's Fisher information."""

    outputs: Eigen
    inputs: Eigen

    def damp(self, update: Tensor, strength: float) -> Tensor:
        """The proximal step: m x n, float32."""
        left, right = self.outputs.vectors, self.inputs.vectors
        weight = torch.outer(self.outputs.values, self.inputs.values)
        return left @ ((left.T @ update @ right) / (1.0 + strength * weight)) @ right.T


def shrink(eigen: Eigen) -> Eigen:
    """In float32."""
    return Eigen(values=eigen.values.float(), vectors=eigen.vectors.float())


def measure_output_fisher(
    training: Training, layers: Mapping[str, nn.Linear], *, limit: int | None = None
) -> dict[str, Tensor]:
    """The second moment of the log-likelihood's gradient by each layer's outputs, on old data.

    Args:
        training: the model at the base's weights, and the old data.
        layers: linear layers by name, whose outputs depend on a tensor that trains.
        limit: at most so many blocks of the old data.

    Returns:
        By name, m x m, float32: the mean over tokens of g g', for labels that the model draws; layers that no block
        reaches are left out.
    """
    generator = torch.Generator().manual_seed(training.seed)
    moments = {name: _Moment() for name in layers}
    trained = list(training.trained.values())
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(moments[name].make_hook()).remove)
        stack.enter_context(evaluation_mode(training.model))
        for block_1T in training.old_data.iterate(limit=limit):
            with training.autocast():
                logits = training.model(input_ids=block_1T.to(training.device), use_cache=False).logits
            logits_NV, _ = select_predicted(logits, block_1T.to(training.device))
            losses_N = compute_token_losses(logits_NV, draw_labels(logits_NV, generator))
            # The tensors' own gradients are not wanted, but asking for them is what runs the backward pass.
            torch.autograd.grad(losses_N.sum(), trained, allow_unused=True)
    return {name: moment.total / moment.count for name, moment in moments.items() if moment.total is not None}


class _Moment:
    """The sum of g g' over the tokens of all passes."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def make_hook(self) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            output.register_hook(self._add)  # type: ignore[no-untyped-call]

        return hook

    @torch.no_grad()
    def _add(self, gradient: Tensor) -> None:
        rows_TM = gradient.detach().reshape(-1, gradient.shape[-1]).float()
        with torch.autocast(gradient.device.type, enabled=False):  # or the product would be rounded to bfloat16
            product = rows_TM.T @ rows_TM
        self.total = product if self.total is None else self.total + product
        self.count += len(rows_TM)
