"""The frozen layers of the language model, divided among the GPUs (FSDP2); what trains stays whole on each.

A decoder layer's frozen tensors are put together when it runs and let go again afterwards, forwards and backwards.
Trained tensors are ordinary parameters: masters, optimizer, rounding, checkpoints and decoding are those of one GPU.
Embeddings, head and final norm stay whole as well; they are used outside of the layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from oblong.checkpoints.locate import locate_model
from oblong.errors import UserError
from oblong.models.names import match_parameters
from oblong.models.speech_lm import SpeechLMForConditionalGeneration
from oblong.models.stored_tensors import open_stored_tensors
from oblong.speech.arms import AppliedArm
from oblong.speech.training.processes import Processes


def shard_frozen(
    model: SpeechLMForConditionalGeneration, applied: AppliedArm, processes: Processes, device: torch.device
) -> AppliedArm:
    """Divide the frozen tensors of the decoder layers, in place.

    Args:
        model: with its arm, on its device.
        applied: the arm.
        processes: to divide among.
        device: of the model.

    Returns:
        The arm without the language model's parameters, which would keep the undivided ones in memory; `gathered` finds
        them again.

    Raises:
        UserError: the language model has no stack of layers.
    """
    language_model = model.model.language_model
    layers = find_layers(language_model)
    mesh = init_device_mesh(device.type, (processes.count,))
    trained = {parameter for parameter in language_model.parameters() if parameter.requires_grad}
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    outside = {parameter for parameter in language_model.parameters() if parameter not in inside}
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    # Divides nothing itself: with a common root the next layer is fetched while one computes.
    fully_shard(language_model, mesh=mesh, ignored_params=trained | inside_now(layers) | outside)
    return replace(applied, language_model={})


def inside_now(layers: nn.ModuleList) -> set[nn.Parameter]:
    """The parameters of the layers as they are after sharding."""
    return {parameter for layer in layers for parameter in layer.parameters()}


def find_layers(language_model: nn.Module) -> nn.ModuleList:
    """The decoder layers: the list of modules that holds most parameters.

    Raises:
        UserError: there is none.
    """
    lists = [module for module in language_model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise UserError("shard_frozen: this language model has no list of layers to divide: set shard_frozen: false")
    return max(lists, key=lambda layers: sum(parameter.numel() for parameter in layers.parameters()))


@contextmanager
def gathered(
    model: SpeechLMForConditionalGeneration, applied: AppliedArm, *, language_model: str
) -> Iterator[AppliedArm]:
    """All tensors whole on every GPU inside the block; all processes must enter it.

    Args:
        model: sharded or not.
        applied: what `shard_frozen` returned.
        language_model: the one that the model was built with.
    """
    modules: Any = model.model.language_model.modules()
    shards = [module for module in modules if isinstance(module, FSDPModule)]
    for shard in shards:
        shard.unshard()
    try:
        names = open_stored_tensors(locate_model(language_model)).names
        yield replace(applied, language_model=match_parameters(model.as_causal_lm(), names)) if shards else applied
    finally:
        for shard in shards:
            shard.reshard()
