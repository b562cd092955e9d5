"""Updates orthogonal to the leading singular subspaces of each matrix: what the base uses most is not touched.

    W_base = U S V',  U_r, V_r its first r singular vectors
    g <- (I - U_r U_r') g (I - V_r V_r')                     and the same for W - W_base after every step

The update then neither reads from the leading input directions nor writes into the leading output directions:
U_r' (W - W_base) = 0 and (W - W_base) V_r = 0, so W keeps its first r singular triples for as long as no other singular
value grows past them.

Source: the constraint of Nayak et al. 2025, "Sculpting subspaces: constrained full fine-tuning in LLMs for continual
learning" (OSF, arXiv 2504.07097; `peft.OSFConfig`). OSF trains factors of the complement; here the matrix itself trains
under the same constraint, with any optimizer, and the result is an ordinary checkpoint. Adam's step leaves the subspace
that its gradients lie in, hence the second projection. `strength` is r as a share of the smaller dimension.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from oblong.methods.base_model import copy_weights, widen
from oblong.methods.options import SubspaceOptions
from oblong.methods.protocol import Method, Sizes, Training


class SubspaceProjection(Method):
    """Projects gradients and updates of every trained matrix; other tensors train freely."""

    def __init__(self, options: SubspaceOptions) -> None:
        self._options = options

    @torch.no_grad()
    def prepare(self, training: Training) -> None:
        """Decompose the base's matrices and keep them."""
        self._training = training
        self._base = copy_weights(dict(self._matrices()))
        self._leading = {name: find_leading(value, self._options.strength) for name, value in self._base.items()}

    @torch.no_grad()
    def change_gradients(self) -> None:
        """Project the gradients."""
        for name, value in self._matrices():
            if value.grad is not None:
                value.grad.sub_(find_component(value.grad, *self._leading[name]))

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Project the update."""
        for name, value in self._matrices():
            update = widen(value.detach()) - self._base[name]
            value.sub_(find_component(update, *self._leading[name]).to(value.dtype))

    def forecast_bytes(self, sizes: Sizes) -> int:
        """The base, both families of leading vectors, and one decomposition or product at a time."""
        vectors = 2 * self._options.strength * sizes.num_trained
        return int(4 * (sizes.num_trained + vectors) + 24 * sizes.largest_matrix)

    def _matrices(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in self._training.trained.items() if value.ndim == 2)


def find_leading(matrix: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The first round(share min(m, n)) left and right singular vectors, m x r and n x r."""
    count = round(share * min(matrix.shape))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    # clone: a view would keep all vectors in memory.
    return left[:, :count].clone(), right[:count].T.clone()


def find_component(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """What lies in the leading subspaces: M - (I - U U') M (I - V V'), of M's shape and dtype."""
    wide = widen(matrix)
    inside = left @ (left.T @ wide)
    rest = wide - inside
    return (inside + (rest @ right) @ right.T).to(matrix.dtype)
