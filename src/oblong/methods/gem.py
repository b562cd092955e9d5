"""Gradient Episodic Memory: the step may not raise the loss on any old task, to first order.

    g~ = argmin ||g - g~||^2   subject to   <g~, g_k> >= 0 for every old task k

Dual, with G the old gradients as rows:  min_v 1/2 v' (G G' + ridge) v + (G g)' v,  v >= margin;   g~ = G' v + g

Source: Lopez-Paz and Ranzato 2017, Eq. 8-12, and the authors' code: the projection is made when any inequality is
violated, and then every v_k >= margin (0.5), which favours backward transfer. Inner products are over all trained
tensors together (projecting tensor by tensor solves another problem) and in float64; a tensor without a gradient in
this step does not move, and has no part in them. The ridge is a share of the mean
of the dual's diagonal here; an absolute 1e-3, as in the authors' code, would outweigh the small gradients of large
models. The dual is solved as a non-negative least squares problem in u = v - margin.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

from oblong.methods.anchor_losses import Gradients, compute_anchor_gradients, compute_inner_product, take_moving
from oblong.methods.options import GemOptions
from oblong.methods.protocol import Method, Sizes, State, Training


class GradientEpisodicMemory(Method):
    """Projects the gradient; one more forward and backward pass per old task and step."""

    def __init__(self, options: GemOptions) -> None:
        self._options = options
        self._step = 0

    def prepare(self, training: Training) -> None:
        """Remember the anchor, one old task per source."""
        self._training = training

    def change_gradients(self) -> None:
        """Project, if any old task's loss would rise."""
        self._step += 1
        new = {name: value.grad for name, value in self._training.trained.items() if value.grad is not None}
        tasks = range(self._training.old_data.num_tasks)
        old = [take_moving(self._compute_old_gradients(task), new) for task in tasks]
        violations = np.array([compute_inner_product(new, gradients) for gradients in old])
        if (violations >= 0).all() or not np.isfinite(violations).all():
            return  # a gradient that is not finite is the training's to refuse
        gram = np.array([[compute_inner_product(one, other) for other in old] for one in old])
        weights = solve_dual(gram, violations, margin=self._options.margin, ridge=self._options.ridge)
        add_weighted(new, old, self._options.strength * weights)

    def state_dict(self) -> State:
        """The number of steps, which the draws from memory depend on."""
        return {"step": self._step}

    def load_state_dict(self, state: State) -> None:
        """Go on from a step."""
        self._step = state["step"]

    def forecast_bytes(self, sizes: Sizes) -> int:
        """One gradient per old task, one that is being added up, and two float64 tensors at a time."""
        return 4 * (sizes.num_anchor_tasks + 1) * sizes.num_trained + 16 * sizes.largest_matrix

    def _compute_old_gradients(self, task: int) -> Gradients:
        anchor, seed = self._training.old_data, self._training.seed
        blocks_NT = anchor.draw(self._options.blocks, seed=seed, step=self._step, task=task)
        return compute_anchor_gradients(self._training, blocks_NT)


def solve_dual(
    gram: NDArray[np.float64], violations: NDArray[np.float64], *, margin: float, ridge: float
) -> NDArray[np.float64]:
    """The weights of the old gradients.

    Args:
        gram: G G', num_tasks x num_tasks.
        violations: G g, num_tasks.
        margin: lower bound of the weights.
        ridge: added to the diagonal, as a share of its mean.

    Returns:
        v, num_tasks, each at least `margin`.
    """
    diagonal = ridge * float(np.trace(gram)) / len(gram) + np.finfo(np.float64).tiny
    matrix = 0.5 * (gram + gram.T) + diagonal * np.eye(len(gram))
    # 1/2 u'Mu + q'u with q = Gg + M margin is 1/2 ||A u + A'^-1 q||^2 but for a constant, where M = A'A.
    values, vectors = np.linalg.eigh(matrix)
    roots = np.sqrt(np.clip(values, diagonal, None))
    root = roots[:, None] * vectors.T
    linear = violations + matrix @ np.full(len(gram), margin)
    target = -(vectors.T @ linear) / roots
    solution: NDArray[np.float64] = nnls(root, target)[0]
    return solution + margin


@torch.no_grad()
def add_weighted(new: dict[str, Tensor], old: list[Gradients], weights: NDArray[np.float64]) -> None:
    """G <- g + sum_k weights_k g_k, in place."""
    for gradients, weight in zip(old, weights, strict=True):
        for name, gradient in new.items():
            gradient.add_(gradients[name].to(gradient.dtype), alpha=float(weight))
