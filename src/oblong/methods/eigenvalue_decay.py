"""Eigenvalue decay: the largest singular value of each matrix as a penalty.

    L = L_new + C sum over matrices of sigma_max(W),        gradient = C u v'

u and v are the leading singular vectors. Source: Ludwig, Nunes and Araujo 2014, "Eigenvalue decay: a new method for
neural network regularization"; the author's Keras code adds C sqrt(lambda_max(W'W)) by nine power iterations from the
vector of ones. Here the iteration goes on from the last step's vector and starts from a random one: ones can be
orthogonal to the leading vector. `target: update` penalises W - W_base instead (ours), which bounds the largest change
of any output per unit of input; the published form shrinks what the base has learned.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from oblong.methods.base_model import copy_weights, widen
from oblong.methods.options import EigenvalueDecayOptions
from oblong.methods.protocol import Method, Sizes, State, Training


class EigenvalueDecay(Method):
    """Adds C u v' to the gradient of every trained matrix, once a step."""

    def __init__(self, options: EigenvalueDecayOptions) -> None:
        self._options = options
        self._vectors: dict[str, Tensor] = {}

    def prepare(self, training: Training) -> None:
        """Draw starting vectors; keep the base where updates are penalised."""
        self._training = training
        generator = torch.Generator().manual_seed(training.seed)
        for name, value in self._matrices():
            start = torch.randn(value.shape[1], generator=generator, dtype=torch.float64)
            self._vectors[name] = start.to(value.device, widen(value.detach()).dtype)
        on_update = self._options.target == "update"
        self._base = copy_weights(dict(self._matrices())) if on_update else {}

    @torch.no_grad()
    def change_gradients(self) -> None:
        """Add the penalty's gradient."""
        for name, value in self._matrices():
            if value.grad is None:
                continue
            matrix = widen(value.detach())
            if name in self._base:
                matrix = matrix - self._base[name]
            left, _, self._vectors[name] = iterate_power(matrix, self._vectors[name], self._options.iterations)
            slope = torch.outer(left, self._vectors[name])
            value.grad.add_(slope.to(value.grad.dtype), alpha=self._options.strength)

    def state_dict(self) -> State:
        """The vectors that the iteration goes on from."""
        return {"vectors": self._vectors}

    def load_state_dict(self, state: State) -> None:
        """Go on from the last step's vectors."""
        self._vectors = state["vectors"]

    def forecast_bytes(self, sizes: Sizes) -> int:
        """theta* where updates are penalised; a difference and an outer product of one matrix."""
        return 4 * sizes.num_trained * bool(self._options.target == "update") + 12 * sizes.largest_matrix

    def _matrices(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in self._training.trained.items() if value.ndim == 2)


def iterate_power(matrix: Tensor, start: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Approximate the leading singular triple.

    Args:
        matrix: m x n.
        start: n, not orthogonal to the leading right vector.
        iterations: products with W'W.

    Returns:
        u (m), sigma and v (n). Of a zero matrix: zeros, and `start` unchanged, so that the next call has a start.
    """
    vector = start
    for _ in range(iterations):
        product = matrix.T @ (matrix @ vector)
        norm = torch.linalg.vector_norm(product)
        if norm == 0:
            return torch.zeros_like(matrix[:, 0]), norm, start
        vector = product / norm
    left = matrix @ vector
    sigma = torch.linalg.vector_norm(left)
    return left / sigma, sigma, vector
