"""Synaptic Intelligence: weights are held by what they did for the loss on their way.

    during a task     omega_i <- omega_i - g_i (theta_i after the step - theta_i before)
    at its end        Omega_i <- max(0, Omega_i + omega_i / ((theta_i - theta^start_i)^2 + xi)),   omega_i <- 0
    in the next       L = L_new + c sum_i Omega_i (theta_i - theta*_i)^2

Source: Zenke, Poole and Ganguli 2017, Eq. 3-5; g is the gradient of the unregularised loss before clipping, and the
positive part is taken of the accumulated sum, as in the authors' code. A released checkpoint has no path, so Omega
would be zero and SI would do nothing on the first task: a few steps on anchor text give it one (ours). Their weights
are dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oblong.methods.anchor_losses import compute_anchor_gradients
from oblong.methods.base_model import copy_weights, widen
from oblong.methods.options import SiOptions
from oblong.methods.protocol import Sizes, State, Training
from oblong.methods.quadratic_penalty import QuadraticPenalty, normalise


class SynapticIntelligence(QuadraticPenalty):
    """SI. Used again for a next task, it holds what the tasks before needed.

    Attributes:
        path_integral: omega by parameter; its sum over all elements approximates the loss that the steps removed.
    """

    half = False

    def __init__(self, options: SiOptions) -> None:
        super().__init__(options)
        self._options = options
        self._gradients: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    def prepare(self, training: Training) -> None:
        """Remember where the weights are, and start a new path."""
        super().prepare(training)
        self.path_integral = {name: torch.zeros_like(value) for name, value in self.base.items()}

    def measure(self) -> None:
        """Give the base a path by a few steps on anchor text, unless a task before has left an importance."""
        if self.importance is not None or self._options.warmup_steps == 0:
            return
        anchor, options, trained = self.training.old_data, self._options, self.training.trained
        optimizer = torch.optim.AdamW(trained.values(), lr=self.training.learning_rate, weight_decay=0.0)
        for step in range(options.warmup_steps):
            blocks_NT = anchor.draw(options.warmup_batch, seed=self.training.seed, step=step)
            for name, gradient in compute_anchor_gradients(self.training, blocks_NT).items():
                trained[name].grad = gradient
            self._remember()
            optimizer.step()
            self._accumulate()
        self.finish()
        with torch.no_grad():
            for name, value in trained.items():
                value.copy_(self.base[name])
                value.grad = None
        self.prepare(self.training)

    def change_gradients(self) -> None:
        """Keep the loss's own gradient, then add the penalty's."""
        self._remember()
        super().change_gradients()

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the implicit step, if that was asked for; then add the whole step to the path integral."""
        super().after_step(optimizer)
        self._accumulate()

    @torch.no_grad()
    def finish(self) -> None:
        """Turn the path into importance."""
        importance = {}
        for name, value in self.training.trained.items():
            travelled = (widen(value.detach()) - self.base[name]).square_()
            gained = self.path_integral[name].div_(travelled.add_(self._options.damping))
            importance[name] = (gained if self.importance is None else gained + self.importance[name]).clamp_min_(0.0)
        self.importance = normalise(importance) if self._options.normalise else importance
        self.path_integral = {name: torch.zeros_like(value) for name, value in self.base.items()}

    def state_dict(self) -> State:
        """Importance and the path so far."""
        return {**super().state_dict(), "path_integral": self.path_integral}

    def load_state_dict(self, state: State) -> None:
        """Go on along the path."""
        super().load_state_dict(state)
        self.path_integral = state["path_integral"]

    def forecast_bytes(self, sizes: Sizes) -> int:
        """theta*, Omega, omega, the gradient and the weights before the step; the warm-up's Adam has gone by then."""
        return 20 * sizes.num_trained + 8 * sizes.largest_matrix

    def _remember(self) -> None:
        trained = self.training.trained
        self._gradients = {name: widen(v.grad).clone() for name, v in trained.items() if v.grad is not None}
        self._before = copy_weights({name: trained[name] for name in self._gradients})

    @torch.no_grad()
    def _accumulate(self) -> None:
        for name, gradient in self._gradients.items():
            moved = widen(self.training.trained[name].detach()) - self._before[name]
            self.path_integral[name] -= gradient * moved
        self._gradients, self._before = {}, {}
