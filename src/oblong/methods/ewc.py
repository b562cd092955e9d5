"""Elastic Weight Consolidation: weights that old data depends on are held, by the Fisher information.

    L = L_new + (lambda / 2) sum_i F_i (theta_i - theta*_i)^2
    F_i = E_x sum_t E_{y ~ p(.|x_<t)} (d log p(y | x_<t) / d theta_i)^2 / num_tokens

Source: Kirkpatrick et al. 2017, Eq. 3; online form: Schwarz et al. 2018, F <- gamma F_old + F_new.

The expectation is over labels drawn from the model ("sampled", the true Fisher information) or the text's own labels
("empirical"). One backward pass serves a whole sequence: with drawn labels the tokens' gradients have zero mean and are
independent given the context, so E (sum_t g_t)^2 = sum_t E g_t^2. With the text's own labels that does not hold, and
the estimate is that of sequences. Squaring the mean gradient of a batch of several sequences, as some implementations
do, is too small by up to the batch size; sequences are taken one at a time here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oblong.methods.anchor_losses import differentiate
from oblong.methods.base_model import evaluation_mode
from oblong.methods.options import EwcOptions
from oblong.methods.protocol import Training
from oblong.methods.quadratic_penalty import QuadraticPenalty, normalise
from oblong.methods.token_losses import compute_token_losses, select_predicted


class ElasticWeightConsolidation(QuadraticPenalty):
    """EWC. Used again for a next task, it goes on as online EWC: one theta*, a decayed sum of Fisher information."""

    def __init__(self, options: EwcOptions) -> None:
        super().__init__(options)
        self._options = options

    def measure(self) -> None:
        """Estimate the Fisher information of the anchor data at the weights of the moment.

        Where tasks before have left an importance, that of the newest task is added to it.
        """
        training = self.training if self.importance is None else self.training.on_newest_anchor()
        fisher = estimate_fisher(training, self._options)
        fisher = normalise(fisher) if self._options.normalise else fisher
        if self.importance is not None:
            old, decay = self.importance, self._options.decay
            fisher = {name: decay * old[name] + value for name, value in fisher.items()}
        self.importance = fisher


def estimate_fisher(training: Training, options: EwcOptions) -> dict[str, Tensor]:
    """The diagonal of the Fisher information on anchor data, per predicted token.

    Returns:
        By parameter, of its shape, float32, non-negative.
    """
    generator = torch.Generator().manual_seed(training.seed)
    totals = {
        name: torch.zeros_like(value, dtype=torch.float32, requires_grad=False)
        for name, value in training.trained.items()
    }
    num_tokens = 0
    draws = options.draws if options.fisher == "sampled" else 1
    for block_1T in training.old_data.iterate(limit=options.blocks):
        for _ in range(draws):
            log_likelihood, count = _compute_log_likelihood(training, block_1T, options, generator)
            num_tokens += count
            for name, gradient in differentiate(log_likelihood, training).items():
                totals[name] += gradient.float().square()
    return {name: total / max(1, num_tokens) for name, total in totals.items()}


def _compute_log_likelihood(
    training: Training, block_1T: Tensor, options: EwcOptions, generator: torch.Generator
) -> tuple[Tensor, int]:
    """The log-likelihood of one sequence's labels, nats, and how many they are."""
    block_1T = block_1T.to(training.device)
    with evaluation_mode(training.model), training.autocast():
        logits = training.model(input_ids=block_1T).logits
    logits_NV, labels_N = select_predicted(logits, block_1T)
    if options.fisher == "sampled":
        labels_N = draw_labels(logits_NV, generator)
    return -compute_token_losses(logits_NV, labels_N).sum(), len(labels_N)


def draw_labels(logits_NV: Tensor, generator: torch.Generator) -> Tensor:
    """One label per row from the model's own distribution: num_tokens, int64."""
    probabilities_NV = torch.softmax(logits_NV.detach().float().cpu(), dim=-1)
    return torch.multinomial(probabilities_NV, 1, generator=generator).squeeze(1).to(logits_NV.device)
