"""Singular value bounding: singular values are held in a band.

    every so many steps   W = U diag(s) V',   s_i <- min(max(s_i, low_i), high_i)

and once more when training ends between two of these (ours), so that what comes out lies in the band.

Source: Jia, Tao, Gao and Xu 2017, "Improving training of deep neural networks via singular value bounding", Alg. 1:
the band is [1 / (1 + epsilon), 1 + epsilon] for weights that start orthogonal ("paper"). A pretrained matrix would be
destroyed by that; "relative" (ours) takes the band about each of the base's singular values, by rank:
[s0_i / (1 + epsilon), s0_i (1 + epsilon)]. In paper mode the condition number is at most (1 + epsilon)^2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from oblong.methods.base_model import restored_weights, widen
from oblong.methods.options import SvbOptions
from oblong.methods.protocol import Method, Sizes, State, Training


class SingularValueBounding(Method):
    """Projects every trained matrix now and then; other tensors are left alone."""

    def __init__(self, options: SvbOptions) -> None:
        self._options = options
        self._step = 0

    @torch.no_grad()
    def prepare(self, training: Training) -> None:
        """Measure the base's singular values."""
        self._training = training
        self._base = {name: torch.linalg.svdvals(widen(value)) for name, value in self._matrices()}

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Project, where the step's number asks for it."""
        self._step += 1
        if self._step % self._options.every == 0:
            self._project()

    def finish(self) -> None:
        """Project what has moved since the last time."""
        if self._step % self._options.every:
            self._project()

    @contextmanager
    def as_if_finished(self) -> Iterator[None]:
        """Inside the block the matrices are projected."""
        with restored_weights(dict(self._matrices())):
            self.finish()
            yield

    def state_dict(self) -> State:
        """The number of steps."""
        return {"step": self._step}

    def load_state_dict(self, state: State) -> None:
        """Go on from a step."""
        self._step = state["step"]

    def forecast_bytes(self, sizes: Sizes) -> int:
        """The decomposition of one matrix at a time: its factors, a copy, LAPACK's work space and the product."""
        return 24 * sizes.largest_matrix

    @torch.no_grad()
    def _project(self) -> None:
        for name, value in self._matrices():
            value.copy_(bound(value.detach(), *self._find_band(name), strength=self._options.strength))

    def _matrices(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in self._training.trained.items() if value.ndim == 2)

    def _find_band(self, name: str) -> tuple[Tensor, Tensor]:
        width = 1.0 + self._options.epsilon
        centre = self._base[name] if self._options.mode == "relative" else torch.ones_like(self._base[name])
        return centre / width, centre * width


def bound(matrix: Tensor, low: Tensor, high: Tensor, *, strength: float = 1.0) -> Tensor:
    """A matrix with its singular values moved into a band.

    Only the change is added, so that a matrix whose singular values are in the band stays as it is, bit for bit.

    Args:
        matrix: m x n.
        low: the band's lower ends, min(m, n), in descending order of the singular values.
        high: its upper ends.
        strength: share of the way that they move.
    """
    left, values, right = torch.linalg.svd(widen(matrix), full_matrices=False)
    change = strength * (values.clamp(low, high) - values)
    moved: Tensor = matrix + ((left * change) @ right).to(matrix.dtype)
    return moved
