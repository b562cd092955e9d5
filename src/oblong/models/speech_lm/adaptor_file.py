"""An adaptor on its own, in one safetensors file: what one stage of training hands to the next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from oblong.checkpoints.delta import explain_tensor_write_errors
from oblong.errors import CorruptCheckpointError, SpeechModelError
from oblong.models.speech_lm.modeling import SpeechLMForConditionalGeneration

CONFIG_KEY: Final = "adaptor_config"


def save_adaptor(model: SpeechLMForConditionalGeneration, path: Path) -> None:
    """Write a model's adaptor with its configuration.

    Raises:
        OutputWriteError: the file cannot be written.
    """
    adaptor = model.model.multi_modal_projector
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adaptor.state_dict().items()}
    with explain_tensor_write_errors(path):
        save_file(tensors, path, metadata={CONFIG_KEY: json.dumps(describe_adaptor(model), sort_keys=True)})


def load_adaptor(model: SpeechLMForConditionalGeneration, path: Path) -> None:
    """Put a saved adaptor into a model, bit for bit.

    Raises:
        CorruptCheckpointError: the file is no adaptor, or lacks tensors.
        SpeechModelError: it was made for another encoder, language model or kind of adaptor.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping, only keys()
            described = json.loads((file.metadata() or {})[CONFIG_KEY])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CorruptCheckpointError(path, f"is no adaptor: {error}", advice="train or save it again") from error
    own = describe_adaptor(model)
    differences = [
        f"{name} is {described.get(name)} there and {value} here"
        for name, value in own.items()
        if described.get(name) != value
    ]
    if differences:
        raise SpeechModelError(f"{path} was made for another model: {'; '.join(differences)}")
    _copy(tensors, model.model.multi_modal_projector.state_dict(), path)


def describe_adaptor(model: SpeechLMForConditionalGeneration) -> dict[str, object]:
    """What must be equal for an adaptor to fit."""
    config = model.config
    adaptor = config.adaptor_config
    return {
        "encoder width": config.audio_config.hidden_size,
        "language model width": config.text_config.hidden_size,
        "kind": adaptor.kind,
        "downsampling": adaptor.downsampling,
        "bottleneck": adaptor.bottleneck,
        "num_heads": adaptor.num_heads,
        "num_attention_layers": adaptor.num_attention_layers,
    }


@torch.no_grad()
def _copy(tensors: dict[str, torch.Tensor], targets: dict[str, torch.Tensor], path: Path) -> None:
    if different := sorted(tensors.keys() ^ targets.keys()):
        raise CorruptCheckpointError(path, f"has not the tensors of its kind: {', '.join(different)}")
    for name, target in targets.items():
        target.copy_(tensors[name])
