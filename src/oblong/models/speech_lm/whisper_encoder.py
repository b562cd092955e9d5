"""Whisper's encoder out of a Whisper directory, without its decoder.

transformers has it on its own under the name `VoxtralEncoder`: the same modules with the same names, so that the
weights load strictly and give the same numbers. `WhisperConfig` itself would build encoder and decoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    VoxtralEncoder,
    VoxtralEncoderConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from oblong.errors import CorruptCheckpointError, SpeechModelError, UnsupportedFormatError
from oblong.models.speech_lm.frames import HOP_LENGTH, SAMPLING_RATE, count_window_samples
from oblong.models.stored_tensors import open_stored_tensors

_ENCODER_NAME: Final = re.compile(r"^(?:model\.)?encoder\.(.+)$")


def read_whisper_encoder(path: Path, dtype: torch.dtype) -> VoxtralEncoder:
    """Load the encoder of a Whisper model, in evaluation mode.

    Args:
        path: a directory with a Whisper model of transformers.
        dtype: of its parameters in memory.

    Raises:
        UnsupportedFormatError: no Whisper model there.
        CorruptCheckpointError: tensors are missing, of another shape, or unknown.
    """
    config = read_encoder_config(path)
    with torch.device("meta"):
        encoder: Any = VoxtralEncoder(config)
    stored = open_stored_tensors(path)
    state = {short: stored.read(name).to(dtype) for name, short in match_encoder_names(stored.names).items()}
    try:
        encoder.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise CorruptCheckpointError(path, f"the encoder does not fit its config.json: {lines[-1].strip()}") from error
    whole: VoxtralEncoder = encoder.eval()
    return whole


def match_encoder_names(names: Iterable[str]) -> Mapping[str, str]:
    """Those of a Whisper file's tensors that are its encoder's, with their names inside the encoder."""
    return {name: found[1] for name in names if (found := _ENCODER_NAME.match(name))}


def read_encoder_config(path: Path) -> VoxtralEncoderConfig:
    """The configuration of the encoder of a Whisper model.

    Raises:
        UnsupportedFormatError: the directory holds another kind of model, or none.
    """
    try:
        config: Any = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # no file, broken JSON, an unknown architecture
        raise UnsupportedFormatError(path, f"its config.json cannot be read: {error}") from error
    if not isinstance(config, WhisperConfig):
        raise UnsupportedFormatError(
            path, f"is a {config.model_type!r} model; the encoder must come from a Whisper model"
        )
    return VoxtralEncoderConfig(
        hidden_size=config.d_model,
        intermediate_size=config.encoder_ffn_dim,
        num_hidden_layers=config.encoder_layers,
        num_attention_heads=config.encoder_attention_heads,
        num_mel_bins=config.num_mel_bins,
        max_source_positions=config.max_source_positions,
        activation_function=config.activation_function,
        scale_embedding=config.scale_embedding,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        layerdrop=config.encoder_layerdrop,
        vocab_size=config.vocab_size,
    )


def read_feature_extractor(path: Path, config: VoxtralEncoderConfig) -> WhisperFeatureExtractor:
    """The feature extractor beside a Whisper model, checked against its encoder.

    Raises:
        UnsupportedFormatError: there is none.
        SpeechModelError: it makes other spectrograms than the encoder takes.
    """
    factory: Any = AutoFeatureExtractor  # without annotations
    try:
        extractor: Any = factory.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a missing, broken or unknown preprocessor_config.json
        raise UnsupportedFormatError(path, f"its preprocessor_config.json cannot be read: {error}") from error
    check_feature_extractor(extractor, config)
    whole: WhisperFeatureExtractor = extractor
    return whole


def check_feature_extractor(extractor: WhisperFeatureExtractor, config: VoxtralEncoderConfig) -> None:
    """Make sure that the spectrograms are what the encoder takes and what frames are counted by.

    Raises:
        SpeechModelError: with every setting that differs.
    """
    source: Any = extractor
    expected: Mapping[str, int] = {
        "sampling_rate": SAMPLING_RATE,
        "hop_length": HOP_LENGTH,
        "feature_size": config.num_mel_bins,
        "n_samples": count_window_samples(config.max_source_positions),
    }
    problems = [
        f"{name} is {getattr(source, name, None)}, the encoder takes {value}"
        for name, value in expected.items()
        if getattr(source, name, None) != value
    ]
    if problems:
        raise SpeechModelError(
            f"the feature extractor does not fit the encoder: {'; '.join(problems)}; take both from one Whisper model"
        )
