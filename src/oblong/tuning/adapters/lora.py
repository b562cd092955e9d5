"""Low-rank adapters by PEFT in any module, as both tuning of text and of speech use them.

PEFT would draw them in the dtype of the frozen weights. Here their matrices are float32, as all that trains, and the
same on every device and under every dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from oblong.errors import MissingExtraError, SelectionError

ADAPTER: Final = "default"
MATRICES: Final = ("lora_A", "lora_B")


def choose_rank(num_parameters: int, shapes: Iterable[tuple[int, ...]]) -> int:
    """The rank whose adapters come nearest to a number of parameters, such as a Plan's; at least 1.

    Args:
        num_parameters: wanted.
        shapes: of the matrices that get adapters; rank 1 costs the sum of their rows and columns.

    Raises:
        SelectionError: no parameters are asked for.
    """
    if num_parameters < 1:
        raise SelectionError(f"lora: {num_parameters} parameters are none: ask for 1 or more")
    return max(1, round(num_parameters / sum(map(sum, shapes))))


def inject_lora(
    model: nn.Module, modules: Sequence[str], *, rank: int, alpha: float, dropout: float = 0.0, seed: int = 0
) -> Mapping[str, nn.Parameter]:
    """Put fresh adapters on linear layers, in place; they train.

    Args:
        model: without adapters.
        modules: paths of its linear layers.
        rank: of each adapter.
        alpha: scale, divided by the rank.
        dropout: of the adapters' input, 0 to 1.
        seed: of the A matrices; B is zero.

    Returns:
        Their matrices, float32: `MODULE.lora_A.weight` (rank, inputs) and `MODULE.lora_B.weight` (outputs, rank).

    Raises:
        MissingExtraError: PEFT is not installed.
    """
    peft = import_peft("LoRA")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(modules))
    with torch.random.fork_rng(devices=[]):
        peft.inject_adapter_in_model(config, model, ADAPTER)
    _draw_matrices(model, seed)
    return {
        f"{path}.{name}.weight": getattr(layer, name)[ADAPTER].weight
        for path, layer in iterate_lora_layers(model)
        for name in MATRICES
    }


def import_peft(feature: str) -> Any:
    """PEFT, which is optional.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError(feature, "adapters") from error
    return peft


def iterate_lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that have adapters, by path."""
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "lora_A"))


def remove_adapters(model: nn.Module, layers: Iterable[tuple[str, Any]]) -> None:
    """Put the plain linear layers back that adapters were put on, as they are now."""
    for path, layer in list(layers):
        model.set_submodule(path, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


@torch.no_grad()
def _draw_matrices(model: nn.Module, seed: int) -> None:
    """Draw A again, as PEFT does, but in float32 and on the CPU: the same on every device and under every dtype."""
    generator = torch.Generator().manual_seed(seed)
    for _, layer in iterate_lora_layers(model):
        for name in MATRICES:
            getattr(layer, name).float()
        drawn = torch.empty(layer.lora_A[ADAPTER].weight.shape)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        layer.lora_A[ADAPTER].weight.copy_(drawn)
