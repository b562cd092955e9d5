"""Whose features: everything but the audio that decides what an encoder says about it."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import numpy as np
import torch
import transformers

from oblong.checkpoints.delta import digest_tensor
from oblong.errors import SpeechModelError
from oblong.models.speech_lm import SpeechLMForConditionalGeneration, SpeechLMProcessor
from oblong.speech.features.shards import Encoder

# To be raised when our decoding of audio, the crop or the layout of what is stored changes.
FEATURES_VERSION: Final = 1
# What a configuration also says about files, names and the library; the last is described on its own.
INCIDENTAL: Final = frozenset(
    {"transformers_version", "architectures", "dtype", "_name_or_path", "feature_extractor_type", "processor_class"}
)


def describe_encoder(model: SpeechLMForConditionalGeneration, processor: SpeechLMProcessor) -> Encoder:
    """The identity of a frozen encoder: its weights, settings and precision, the spectrogram before it, the libraries.

    The number of threads and the kind of processor are not part of it: they move the last bits of a float32 sum, and
    hours of encoding would be lost with every change of machine.
    """
    tower: Any = model.model.audio_tower
    extractor: Any = processor.feature_extractor
    filters = np.ascontiguousarray(extractor.mel_filters)
    description = {
        "version": FEATURES_VERSION,
        "weights": digest_weights(tower),
        "config": _pick(tower.config.to_dict()),
        "attention": tower.config._attn_implementation,
        "dtype": str(tower.dtype).removeprefix("torch."),
        "device": tower.device.type,
        "spectrogram": _pick(extractor.to_dict()),
        "mel_filters": hashlib.sha256(filters.data).hexdigest(),
        "transformers": transformers.__version__,
    }
    # Through JSON and back, so that what is compared is what is written.
    text = json.dumps(description, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Encoder(digest=digest, width=tower.config.hidden_size, description=json.loads(text))


def check_frozen(model: SpeechLMForConditionalGeneration) -> None:
    """Refuse an encoder that trains: what it says now is not what it will say.

    Raises:
        SpeechModelError: naming a tensor.
    """
    tower: Any = model.model.audio_tower
    if training := [name for name, parameter in tower.named_parameters() if parameter.requires_grad]:
        raise SpeechModelError(
            f"{len(training)} tensors of the encoder train, such as {training[0]}, so its features cannot be kept: "
            "freeze it with model.freeze_towers()"
        )


def digest_weights(module: torch.nn.Module) -> str:
    """SHA-256 in hexadecimal over the names, shapes, dtypes and bytes of a module's tensors."""
    state = module.state_dict()
    lines = [
        f"{name} {tuple(tensor.shape)} {tensor.dtype} {digest_tensor(tensor)}" for name, tensor in sorted(state.items())
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _pick(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in INCIDENTAL}
