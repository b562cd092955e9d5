"""WiSE-FT: the tuned weights and the base's, interpolated after training.

    theta(alpha) = (1 - alpha) theta_base + alpha theta_tuned

Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", Eq. 1. One training gives a whole curve of
learning against forgetting: `interpolate` any alpha, or `trace_curve` with a measure. As a method, strength = 1 - alpha
is applied when training ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import torch
from torch import Tensor, nn

from oblong.methods.base_model import load_weights, restored_weights
from oblong.methods.options import WiseFtOptions
from oblong.methods.protocol import Method, Sizes, Training

MeasureT = TypeVar("MeasureT")

DEFAULT_ALPHAS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class WiseFt(Method):
    """Goes part of the way back to the base when training ends."""

    def __init__(self, options: WiseFtOptions) -> None:
        self._options = options

    def prepare(self, training: Training) -> None:
        """Keep the base."""
        self._trained = training.trained
        self._base = {name: value.detach().clone() for name, value in training.trained.items()}

    def finish(self) -> None:
        """Interpolate."""
        tuned = {name: value.detach().clone() for name, value in self._trained.items()}
        load_weights(self._trained, interpolate(self._base, tuned, alpha=1.0 - self._options.strength))

    @contextmanager
    def as_if_finished(self) -> Iterator[None]:
        """Inside the block the weights are interpolated."""
        with restored_weights(self._trained):
            self.finish()
            yield

    def forecast_bytes(self, sizes: Sizes) -> int:
        """The base's weights during training; a copy more at its end, when no gradients are left."""
        return 4 * sizes.num_trained


def interpolate(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], *, alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) base + alpha tuned, tensor by tensor; exact at alpha 0 and 1."""
    return {name: torch.lerp(tuned[name], value, 1.0 - alpha) for name, value in base.items()}


def trace_curve(
    trained: Mapping[str, nn.Parameter],
    base: Mapping[str, Tensor],
    measure: Callable[[], MeasureT],
    *,
    alphas: Sequence[float] = DEFAULT_ALPHAS,
) -> dict[float, MeasureT]:
    """Measure the model at every alpha; afterwards it is as tuned.

    Args:
        trained: the model's tuned parameters by name.
        base: the base's values of the same.
        measure: called with the interpolated weights in the model.
        alphas: 0 is the base, 1 the tuned model.
    """
    with restored_weights(trained) as tuned:
        curve = {}
        for alpha in alphas:
            load_weights(trained, interpolate(base, tuned, alpha=alpha))
            curve[alpha] = measure()
        return curve
