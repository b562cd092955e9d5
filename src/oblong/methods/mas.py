"""Memory Aware Synapses: weights that the output is sensitive to are held; old text without labels is enough.

    L = L_new + lambda sum_i Omega_i (theta_i - theta*_i)^2
    Omega_i = (1 / N) sum_n | d ||F(x_n)||^2 / d theta_i |

Source: Aljundi et al. 2018, Eq. 3-5, the global form with one sample at a time: averaging gradients over a batch before
taking the absolute value lets samples cancel. A sample is a block of text, and ||F||^2 its mean over tokens. For a
language model, F may be the log-probabilities centred over the vocabulary (adding a constant to all logits changes
nothing that the model says), the raw logits, or the last hidden state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oblong.methods.anchor_losses import differentiate
from oblong.methods.base_model import evaluation_mode
from oblong.methods.options import MasOptions
from oblong.methods.protocol import Training
from oblong.methods.quadratic_penalty import QuadraticPenalty, normalise


class MemoryAwareSynapses(QuadraticPenalty):
    """MAS. Used again for a next task, importances add up, as published."""

    half = False

    def __init__(self, options: MasOptions) -> None:
        super().__init__(options)
        self._options = options

    def measure(self) -> None:
        """Estimate the importance of every weight for the outputs on anchor data.

        Where tasks before have left an importance, that of the newest task is added to it.
        """
        training = self.training if self.importance is None else self.training.on_newest_anchor()
        importance = estimate_sensitivity(training, self._options)
        importance = normalise(importance) if self._options.normalise else importance
        if self.importance is not None:
            importance = {name: self.importance[name] + value for name, value in importance.items()}
        self.importance = importance


def estimate_sensitivity(training: Training, options: MasOptions) -> dict[str, Tensor]:
    """Mean absolute gradient of the output's squared norm, by parameter and of its shape, float32."""
    totals = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in training.trained.items()}
    num_blocks = 0
    for block_1T in training.old_data.iterate(limit=options.blocks):
        num_blocks += 1
        squared_norm = compute_output(training, block_1T, options).square().sum(dim=-1).mean()
        for name, gradient in differentiate(squared_norm, training).items():
            totals[name] += gradient.float().abs()
    return {name: total.detach() / max(1, num_blocks) for name, total in totals.items()}


def compute_output(training: Training, block_1T: Tensor, options: MasOptions) -> Tensor:
    """F(x): 1 x sequence_length x features, float32, with gradient."""
    wants_hidden = options.output == "hidden"
    extra = {"output_hidden_states": True} if wants_hidden else {}
    with evaluation_mode(training.model), training.autocast():
        output = training.model(input_ids=block_1T.to(training.device), **extra)
    if wants_hidden:
        hidden: Tensor = output.hidden_states[-1].float()
        return hidden
    logits: Tensor = output.logits.float()
    if options.output == "logits":
        return logits
    return logits - logits.mean(dim=-1, keepdim=True)
