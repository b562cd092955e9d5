"""Averaged GEM: the step may not raise the mean loss on old data, to first order.

    g~ = g - (<g, r> / <r, r>) r   if <g, r> < 0,   r = gradient of old data's loss

Source: Chaudhry et al. 2019, "Efficient lifelong learning with A-GEM", Eq. 11. Inner products are over all trained
tensors together that have a gradient in this step, in float64.
"""

from __future__ import annotations

from oblong.methods.anchor_losses import compute_anchor_gradients, compute_inner_product, take_moving
from oblong.methods.options import AGemOptions
from oblong.methods.protocol import Method, Sizes, State, Training


class AveragedGem(Method):
    """Projects the gradient; one more forward and backward pass per step."""

    def __init__(self, options: AGemOptions) -> None:
        self._options = options
        self._step = 0

    def prepare(self, training: Training) -> None:
        """Remember the anchor."""
        self._training = training

    def change_gradients(self) -> None:
        """Project, if the loss of old data would rise."""
        self._step += 1
        blocks_NT = self._training.old_data.draw(self._options.blocks, seed=self._training.seed, step=self._step)
        new = {name: value.grad for name, value in self._training.trained.items() if value.grad is not None}
        reference = take_moving(compute_anchor_gradients(self._training, blocks_NT), new)
        overlap = compute_inner_product(new, reference)
        if overlap >= 0:
            return
        scale = self._options.strength * overlap / compute_inner_product(reference, reference)
        for name, gradient in new.items():
            gradient.add_(reference[name].to(gradient.dtype), alpha=-scale)

    def state_dict(self) -> State:
        """The number of steps, which the draws from memory depend on."""
        return {"step": self._step}

    def load_state_dict(self, state: State) -> None:
        """Go on from a step."""
        self._step = state["step"]

    def forecast_bytes(self, sizes: Sizes) -> int:
        """The reference gradient, one that is being added up, and two float64 tensors at a time."""
        return 8 * sizes.num_trained + 16 * sizes.largest_matrix
