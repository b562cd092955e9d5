"""FLOW: samples that the base already finds likely weigh more, the hard ones less.

    w_i = exp(-f_i(theta*) / tau)        L = sum_i w_i n_i f_i / sum_i n_i

f_i is the mean loss of the sample's n_i tokens, nats per token, and tau the median of f_i(theta*) over the training
data. The paper's mean is over samples; over tokens, as the training's own, it is the same for samples of one length.

Source: Sanyal et al. 2025, "Upweighting easy samples in fine-tuning mitigates forgetting", arXiv 2502.02797, Alg. 1.
The weights are not normalised, as published: they also make every step smaller. Weights come from the base as it is met
(one more forward pass per step); tau from the first `items` training items. `strength` multiplies the exponent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oblong.errors import MethodError
from oblong.methods.base_model import BaseModel
from oblong.methods.options import FlowOptions
from oblong.methods.protocol import Batch, Method, Sizes, State, Training
from oblong.methods.token_losses import compute_token_losses, mask_predicted, select_predicted, weigh_tokens


class Flow(Method):
    """Weighs each sample's tokens by how likely the base finds the sample.

    Attributes:
        temperature: tau, nats per token.
    """

    def __init__(self, options: FlowOptions) -> None:
        self._options = options
        self.temperature = options.temperature

    def prepare(self, training: Training) -> None:
        """Keep the base."""
        self._training = training
        self._teacher = BaseModel(training.model, training.trained, training.autocast)

    def measure(self) -> None:
        """Take the median of the base's losses, unless tau is given.

        Raises:
            MethodError: no training item has a token to predict.
        """
        if self.temperature is not None:
            return
        losses = [self._compute_base_losses(batch) for batch in self._training.read_items(self._options.items)]
        finite = [loss_B for loss_B in losses if bool(torch.isfinite(loss_B).all())]
        if not finite:
            raise MethodError(
                "flow: no training item has a token to predict, so there is no median loss: give temperature"
            )
        self.temperature = float(torch.cat(finite).median())

    def compute_extra_loss(self, batch: Batch, logits: Tensor, num_items: Tensor | float) -> Tensor:
        """What turns the mean into the weighted mean."""
        if self.temperature is None:
            raise MethodError("flow: tau is neither given nor measured")
        exponent_B = self._compute_base_losses(batch) / self.temperature
        weights_B = torch.exp(
            -self._options.strength * exponent_B
        ).nan_to_num()  # a sample without tokens has no weight
        losses_N = compute_token_losses(*select_predicted(logits, batch["labels"]))
        return weigh_tokens(weights_B[find_rows(batch["labels"])], losses_N, num_items)

    def state_dict(self) -> State:
        """Tau."""
        return {"temperature": self.temperature}

    def load_state_dict(self, state: State) -> None:
        """Go on with the measured tau."""
        self.temperature = state["temperature"]

    def forecast_bytes(self, sizes: Sizes) -> int:
        """theta*, the base's logits, the selected logits, their log-probabilities and gradients."""
        return 4 * sizes.num_trained + 6 * sizes.logits_bytes

    def _compute_base_losses(self, batch: Batch) -> Tensor:
        """Mean loss of each sample under the base: batch, nats per token; NaN for a sample without predicted tokens."""
        device = self._training.device
        batch = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        losses_N = compute_token_losses(*select_predicted(self._teacher.compute_logits(batch), batch["labels"]))
        rows_N = find_rows(batch["labels"])
        totals_B = torch.zeros(len(batch["labels"]), device=device).index_add_(0, rows_N, losses_N)
        return totals_B / mask_predicted(batch["labels"]).sum(dim=1)


def find_rows(labels_BT: Tensor) -> Tensor:
    """The sample that each predicted token belongs to: num_tokens, int64, in the order of `select_predicted`."""
    return mask_predicted(labels_BT).nonzero()[:, 0]
