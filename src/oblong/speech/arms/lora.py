"""Low-rank adapters in the language model of a speech LLM, by PEFT: found, added, merged.

PEFT would add them in the dtype of the frozen weights, and would pass over a target that matches nothing. Here their
matrices are float32, as all that trains, and every target must name linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from oblong.checkpoints.roles import classify_role
from oblong.errors import MissingExtraError, SelectionError
from oblong.models.speech_lm import SpeechLMForConditionalGeneration
from oblong.records.speech_delta import LoraShape
from oblong.speech.arms.recipe import LoraRecipe

ADAPTER: Final = "default"
# Not the router, the embedding or the head, as in a Plan's default.
DEFAULT_ROLES: Final = frozenset({"q", "k", "v", "o", "qkv", "gate", "up", "down", "gate_up"})
MATRICES: Final = ("lora_A", "lora_B")


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
        found = {name: module for name, module in linear.items() if classify_role(f"{name}.weight") in DEFAULT_ROLES}
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
    if num_parameters < 1:
        raise SelectionError(f"lora: {num_parameters} parameters are none: ask for 1 or more")
    return max(1, round(num_parameters / count_lora_parameters(model, targets)))


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
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("LoRA", "speech") from error
    config: Any = peft.LoraConfig(r=shape.rank, lora_alpha=shape.alpha, target_modules=list(shape.modules))
    with torch.random.fork_rng(devices=[]):
        peft.inject_adapter_in_model(config, model.model.language_model, ADAPTER)
    _draw_matrices(model, seed)
    model.config.audio_gated_adapters = shape.audio_gated
    return {
        f"{path}.{name}.weight": getattr(layer, name)[ADAPTER].weight
        for path, layer in _iterate_layers(model)
        for name in MATRICES
    }


@torch.no_grad()
def _draw_matrices(model: SpeechLMForConditionalGeneration, seed: int) -> None:
    """Draw A again, as PEFT does, but in float32 and on the CPU: the same on every device and under every dtype."""
    generator = torch.Generator().manual_seed(seed)
    for _, layer in _iterate_layers(model):
        for name in MATRICES:
            getattr(layer, name).float()
        drawn = torch.empty(layer.lora_A[ADAPTER].weight.shape)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        layer.lora_A[ADAPTER].weight.copy_(drawn)


@torch.no_grad()
def merge_lora(model: SpeechLMForConditionalGeneration) -> None:
    """Fold the adapters into the weights, W + (alpha / rank) B A, and leave plain linear layers."""
    language_model: Any = model.model.language_model
    for path, layer in list(_iterate_layers(model)):
        layer.merge()
        language_model.set_submodule(path, layer.get_base_layer())
    if hasattr(language_model, "peft_config"):
        del language_model.peft_config


def _iterate_layers(model: SpeechLMForConditionalGeneration) -> Iterator[tuple[str, Any]]:
    modules: Any = model.model.language_model.named_modules()
    return ((name, module) for name, module in modules if hasattr(module, "lora_A"))
