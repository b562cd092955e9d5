"""LISA: of all the layers of a Plan, a few train at a time, drawn anew every so many steps.

Algorithm 1 of Pan et al. 2024 (arXiv 2403.17919). The draw is uniform without replacement, as in the authors' code
(LMFlow's `DynamicLayerActivationCallback`), and here a function of seed and step, so that a resumed run draws the same.
As there, AdamW's moments of a resting layer are kept, and do not decay while it rests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from oblong.errors import SelectionError
from oblong.models.stored_tensors import StoredTensors
from oblong.tuning.adapters.protocol import WholeTensors
from oblong.tuning.adapters.recipe import LisaOptions
from oblong.tuning.apply import AppliedPlan


class SampledLayers(WholeTensors):
    """The Plan's tensors outside the layers train all the time, those of a layer when it is drawn.

    Args:
        applied: the model with its Plan.
        options: of LISA.
        stored: the model's file.
        seed: of the draws.

    Raises:
        SelectionError: the Plan has fewer layers than are to be drawn.
    """

    def __init__(self, applied: AppliedPlan, options: LisaOptions, *, stored: StoredTensors, seed: int) -> None:
        super().__init__(applied, stored)
        self._options = options
        self._seed = seed
        self._layers = group_by_layer(applied)
        if len(self._layers) < options.layers:
            raise SelectionError(
                f"lisa: layers: {options.layers} are to be drawn, but the Plan has tensors of {len(self._layers)}: "
                "lower it, or give a Plan of more layers"
            )

    def describe(self) -> str:
        """How many layers, how often, and how many parameters train at a time and in all."""
        sizes = [sum(parameter.numel() for parameter in layer) for layer in self._layers.values()]
        outside = self.applied.num_trainable - sum(sizes)
        at_a_time = outside + round(self._options.layers * sum(sizes) / len(sizes))
        return (
            f"LISA, {self._options.layers} of {len(sizes)} layers drawn every {self._options.every} steps: "
            f"{at_a_time:,} parameters at a time on average, {self.applied.num_trainable:,} in all"
        )

    def list_callbacks(self) -> Sequence[TrainerCallback]:
        """The one that draws."""
        return (DrawLayers(self._layers, self._options, seed=self._seed),)


class DrawLayers(TrainerCallback):
    """Lets the drawn layers train and the others rest, before each step."""

    def __init__(self, layers: Mapping[int, Sequence[nn.Parameter]], options: LisaOptions, *, seed: int) -> None:
        self._layers = layers
        self._options = options
        self._seed = seed

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Set what trains; a resting parameter has no gradient, and the optimizer passes over it."""
        draw = state.global_step // self._options.every
        awake = draw_layers(tuple(self._layers), self._options.layers, seed=self._seed, draw=draw)
        for layer, parameters in self._layers.items():
            for parameter in parameters:
                parameter.requires_grad_(layer in awake)


def draw_layers(layers: Sequence[int], number: int, *, seed: int, draw: int) -> frozenset[int]:
    """The layers of one draw, uniform without replacement; the same for the same seed and draw.

    Args:
        layers: to draw from.
        number: of layers drawn.
        seed: of the run.
        draw: counted from 0.
    """
    drawn = np.random.default_rng([seed, draw]).choice(len(layers), number, replace=False)
    return frozenset(layers[index] for index in drawn)


def group_by_layer(applied: AppliedPlan) -> dict[int, list[nn.Parameter]]:
    """The Plan's parameters by the number of their layer, in order; those outside the layers are left out."""
    layers: dict[int, list[nn.Parameter]] = {}
    for tensor in applied.plan.tensors:
        if tensor.layer is not None:
            layers.setdefault(tensor.layer, []).append(applied.trained[tensor.name])
    return dict(sorted(layers.items()))
