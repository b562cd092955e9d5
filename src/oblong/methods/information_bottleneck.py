"""Information bottleneck: what reaches the output layer passes a noisy channel whose rate is penalised.

    z ~ N(mu(h), diag sigma(h)^2),   h' = h + g D(z)
    L = L_new + beta * mean over predicted tokens of KL(N(mu, sigma^2) || N(m, s^2))        (rate, nats per token)

Source: Tishby and Zaslavsky 2015 for the principle; the variational bound of Alemi et al. 2017, Eq. 17, as used on
language models by Mahabadi et al. 2021 ("VIB"; learnable Gaussian prior, beta about 1e-5, the mean at test time). The
gate g starts at zero (ours), so the model starts as the base bit for bit. The rate is an upper bound of the mutual
information I(h; z), not an estimate of it.

The channel is a module of its own, trained with the rest: `InformationBottleneck.attach` puts it before the output
layer. A delta checkpoint holds tensors of the base alone, so recipes of `oblong tune` refuse this method; it is for
`MethodTrainer`, and its weights are in the model's `state_dict`.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from oblong.methods.options import InformationBottleneckOptions
from oblong.methods.protocol import Batch, Method, Sizes, State, Training
from oblong.methods.token_losses import mask_predicted

MODULE_NAME: Final = "information_bottleneck"


class Channel(nn.Module):
    """h -> h + g D(z), z a sample in training and the mean otherwise.

    Args:
        width: of h.
        dimension: of z.
        seed: of its weights and of its noise; torch's global generators are left alone.
    """

    def __init__(self, width: int, dimension: int, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mean = nn.Parameter(torch.randn(dimension, width, generator=generator) / math.sqrt(width))
        self.spread = nn.Parameter(torch.randn(dimension, width, generator=generator) / math.sqrt(width))
        self.decoder = nn.Parameter(torch.randn(width, dimension, generator=generator) / math.sqrt(dimension))
        self.gate = nn.Parameter(torch.zeros(()))
        self.prior_mean = nn.Parameter(torch.zeros(dimension))
        self.prior_spread = nn.Parameter(torch.full((dimension,), math.log(math.expm1(1.0))))  # softplus -> 1
        self.rate_BT: Tensor | None = None
        self._seed = seed
        self.num_calls: Tensor
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.int64))

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """The hidden states after the channel; `rate_BT` keeps the rate of each position."""
        wide_BTD = hidden_BTD.float()
        mean = wide_BTD @ self.mean.T
        spread = functional.softplus(wide_BTD @ self.spread.T) + torch.finfo(torch.float32).tiny
        self.rate_BT = compute_rate(mean, spread, self.prior_mean, functional.softplus(self.prior_spread))
        sample = mean + spread * self._draw_noise(mean) if self.training else mean
        return hidden_BTD + (self.gate * (sample @ self.decoder.T)).to(hidden_BTD.dtype)

    def _draw_noise(self, like: Tensor) -> Tensor:
        """Noise that depends on the seed and the number of calls: a resumed run draws what the other did."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + int(self.num_calls))
        self.num_calls += 1
        return torch.randn(like.shape, generator=generator).to(like.device)


class InformationBottleneck(Method):
    """Trains a channel before the output layer and penalises its rate."""

    def __init__(self, options: InformationBottleneckOptions) -> None:
        self._options = options
        self._step = 0
        self.channel: Channel | None = None

    def prepare(self, training: Training) -> None:
        """Attach the channel, unless beta is zero or it is there already."""
        if self._options.strength == 0 or self.channel is not None:
            return
        self.channel = attach_channel(training.model, self._options.dimension, seed=training.seed)

    def compute_extra_loss(self, batch: Batch, logits: Tensor, num_items: Tensor | float) -> Tensor | None:
        """Beta * sum of rates over predicting positions / num_items."""
        if self.channel is None or self.channel.rate_BT is None:
            return None
        share = min(1.0, (self._step + 1) / self._options.anneal_steps) if self._options.anneal_steps else 1.0
        rates_N = self.channel.rate_BT[mask_predicted(batch["labels"])]
        return self._options.strength * share * rates_N.sum() / num_items

    def change_gradients(self) -> None:
        """Count steps, for the annealing."""
        self._step += 1

    def state_dict(self) -> State:
        """The channel, and the number of steps."""
        weights = {} if self.channel is None else dict(self.channel.state_dict())
        return {"step": self._step, "channel": weights}

    def load_state_dict(self, state: State) -> None:
        """Go on from a step."""
        self._step = state["step"]
        if self.channel is not None:
            self.channel.load_state_dict(state["channel"])

    def forecast_bytes(self, sizes: Sizes) -> int:
        """Mean, spread, sample and rate of each position, with gradients; the channel's own weights are few."""
        return 8 * 4 * sizes.num_tokens * self._options.dimension


def attach_channel(model: Any, dimension: int, *, seed: int) -> Channel:
    """Put a channel before a causal language model's output layer, as its submodule `information_bottleneck`."""
    head = model.get_output_embeddings()
    channel = Channel(head.weight.shape[1], dimension, seed=seed).to(head.weight.device)
    model.add_module(MODULE_NAME, channel)
    head.register_forward_pre_hook(lambda module, inputs: (channel(inputs[0]), *inputs[1:]))
    return channel


def compute_rate(mean: Tensor, spread: Tensor, prior_mean: Tensor, prior_spread: Tensor) -> Tensor:
    """KL between diagonal Gaussians, summed over the last dimension, nats.

    sum_k ln(s_k / sigma_k) + (sigma_k^2 + (mu_k - m_k)^2) / (2 s_k^2) - 1/2
    """
    ratio = (spread / prior_spread).square()
    distance = ((mean - prior_mean) / prior_spread).square()
    return 0.5 * (ratio + distance - 1.0 - ratio.log()).sum(dim=-1)
