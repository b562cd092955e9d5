"""Entropy-adaptive fine-tuning: a token where the model is sure weighs little.

    w = (H_k / scale)^alpha        L = sum_t w_t CE_t / num_tokens

H_k is the entropy, in nats, of the k = 20 most likely tokens, renormalised; scale = 3 is about ln 20. The weight has no
gradient. A confident model that is told otherwise by the data would otherwise unlearn what it was sure of.

Source: arXiv 2601.02151, and its implementation in LLaMA-Factory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oblong.methods.options import EaftOptions
from oblong.methods.protocol import Batch, Method, Sizes
from oblong.methods.token_losses import compute_token_losses, select_predicted, weigh_tokens


class EntropyAdaptive(Method):
    """Weighs each token's loss by the entropy of its prediction."""

    whole_tensors = False

    def __init__(self, options: EaftOptions) -> None:
        self._options = options

    def compute_extra_loss(self, batch: Batch, logits: Tensor, num_items: Tensor | float) -> Tensor:
        """What turns the mean into the weighted mean."""
        logits_NV, labels_N = select_predicted(logits, batch["labels"])
        entropy_N = compute_top_entropy(logits_NV.detach(), self._options.top)
        weights_N = (entropy_N / self._options.scale) ** self._options.strength
        return weigh_tokens(weights_N, compute_token_losses(logits_NV, labels_N), num_items)

    def forecast_bytes(self, sizes: Sizes) -> int:
        """The selected logits, their log-probabilities and two gradients."""
        return 4 * sizes.logits_bytes


def compute_top_entropy(logits_NV: Tensor, top: int) -> Tensor:
    """Entropy of the `top` most likely tokens, renormalised: num_tokens, nats, between 0 and ln top."""
    best_NK = torch.topk(logits_NV, min(top, logits_NV.shape[-1]), dim=-1).values
    log_p_NK = torch.log_softmax(best_NK, dim=-1)
    return -(log_p_NK.exp() * log_p_NK).sum(dim=-1).clamp_max(0.0)
