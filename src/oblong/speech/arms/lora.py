"""Low-rank adapters in the language model of a speech LLM, by PEFT: found, added, merged.

PEFT would pass over a target that matches nothing. Here every target must name linear layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from oblong.checkpoints.roles import classify_role
from oblong.errors import SelectionError
from oblong.models.speech_lm import SpeechLMForConditionalGeneration
from oblong.records.speech_delta import LoraShape
from oblong.speech.arms.recipe import LoraRecipe
from oblong.tuning.adapters.lora import choose_rank, inject_lora, iterate_lora_layers, remove_adapters
from oblong.tuning.adapters.planning import LINEAR_ROLES


def shape_lora(model: SpeechLMForConditionalGeneration, recipe: LoraRecipe) -> LoraShape:
    """Resolve a recipe on a model.

    Raises:
        SelectionError: see `find_lora_targets`.
    """
    modules = find_lora_targets(model.model.language_model, recipe.target_modules)
    return LoraShape(rank=recipe.rank, alpha=recipe.scale, audio_gated=recipe.audio_gated, modules=tuple(modules))


def find_lora_targets(language_model: nn.Module, targets: Sequence[str] | None = None) -> Mapping[str, nn.Linear]:
    """The linear layers that targets mean, by their path in the language model, in the model's order.

    Args:
        language_model: without its head.
        targets: ends of paths, such as `q_proj` or `layers.0.self_attn.q_proj`; default: attention and MLP.

    Raises:
        SelectionError: a target that ends no path, or the path of something that is no linear layer; all are named.
    """
    modules: Mapping[str, nn.Module] = dict(language_model.named_modules())
    linear = {name: module for name, module in modules.items() if isinstance(module, nn.Linear)}
    if targets is None:
        found = {name: module for name, module in linear.items() if classify_role(f"{name}.weight") in LINEAR_ROLES}
        if not found:
            raise SelectionError("lora: no linear layer of attention or MLP is known here: name some in target_modules")
        return found
    problems = list(_find_bad_targets(modules, targets))
    if problems:
        known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise SelectionError(f"lora: target_modules: {'; '.join(problems)}. This language model has: {known}")
    return {name: module for name, module in linear.items() if any(_ends_with(name, target) for target in targets)}


def _find_bad_targets(modules: Mapping[str, nn.Module], targets: Sequence[str]) -> Iterator[str]:
    for target in targets:
        kinds = {type(module).__name__ for name, module in modules.items() if _ends_with(name, target)}
        if not kinds:
            yield f"{target!r} matches nothing"
        elif any(not isinstance(module, nn.Linear) for name, module in modules.items() if _ends_with(name, target)):
            yield f"{target!r} is {', '.join(sorted(kinds))}, not a linear layer"


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def count_lora_parameters(model: SpeechLMForConditionalGeneration, targets: Sequence[str] | None = None) -> int:
    """Parameters of adapters of rank 1: sum of (inputs + outputs) over the layers."""
    layers = find_lora_targets(model.model.language_model, targets).values()
    return sum(layer.in_features + layer.out_features for layer in layers)


def choose_lora_rank(
    model: SpeechLMForConditionalGeneration, num_parameters: int, *, targets: Sequence[str] | None = None
) -> int:
    """The rank whose adapters come nearest to a number of parameters, such as a Plan's; at least 1.

    Raises:
        SelectionError: no parameters are asked for, or a target matches nothing.
    """
    layers = find_lora_targets(model.model.language_model, targets).values()
    return choose_rank(num_parameters, [tuple(layer.weight.shape) for layer in layers])


def add_lora(model: SpeechLMForConditionalGeneration, shape: LoraShape, *, seed: int = 0) -> Mapping[str, nn.Parameter]:
    """Put fresh adapters into a model, in place; they train, the weights under them are frozen.

    Args:
        model: a speech LLM without adapters.
        shape: which.
        seed: of the A matrices.

    Returns:
        Their matrices, float32: `MODULE.lora_A.weight` (rank, inputs) and `MODULE.lora_B.weight` (outputs, rank).

    Raises:
        MissingExtraError: PEFT is not installed.
        SelectionError: a layer that this language model does not have.
    """
    find_lora_targets(model.model.language_model, shape.modules)
    matrices = inject_lora(model.model.language_model, shape.modules, rank=shape.rank, alpha=shape.alpha, seed=seed)
    model.config.audio_gated_adapters = shape.audio_gated
    return matrices


@torch.no_grad()
def merge_lora(model: SpeechLMForConditionalGeneration) -> None:
    """Fold the adapters into the weights, W + (alpha / rank) B A, and leave plain linear layers."""
    language_model: Any = model.model.language_model
    for _, layer in iterate_lora_layers(language_model):
        layer.merge()
    remove_adapters(language_model, iterate_lora_layers(language_model))
