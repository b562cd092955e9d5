"""Frozen bottom layers: the layers next to the input, and the embeddings, stay the base's.

Source: Zheng et al. 2025, "Spurious forgetting in continual learning of language models", arXiv 2501.13453, section 5:
the first layers lose their alignment with the old task in the first steps; freezing them keeps most of it.
"""

from __future__ import annotations

from oblong.checkpoints.roles import classify_role, find_layer
from oblong.methods.frozen_tensors import FrozenTensors
from oblong.methods.options import FreezeBottomOptions


class FreezeBottom(FrozenTensors):
    """Freezes trained tensors in the lower share of the model's layers."""

    def __init__(self, options: FreezeBottomOptions) -> None:
        super().__init__()
        self._options = options

    def choose_frozen(self, step: int) -> frozenset[str]:
        """The same tensors in every step."""
        layers = [find_layer(name) for name, _ in self._training.model.named_parameters()]
        num_layers = max((layer for layer in layers if layer is not None), default=-1) + 1
        cutoff = round(self._options.strength * num_layers)
        return frozenset(name for name in self._training.trained if is_below(name, cutoff))


def is_below(name: str, cutoff: int) -> bool:
    """Whether a tensor lies in a layer below `cutoff`, or is an embedding under any frozen layer."""
    layer = find_layer(name)
    if layer is None:
        return cutoff > 0 and classify_role(name) == "embedding"
    return layer < cutoff
