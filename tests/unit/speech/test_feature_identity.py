"""Features are known by whatever decides their numbers in the encoder, and by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from oblong.models.speech_lm import load_speech_lm
from oblong.speech.features.identity import describe_encoder
from tests.speech_builders import build_tiny


def test_a_saved_model_has_the_encoder_that_was_built(tmp_path: Path) -> None:
    model, processor = build_tiny(tmp_path)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    loaded = load_speech_lm(tmp_path / "saved", dtype="float32")
    assert describe_encoder(*loaded) == describe_encoder(model, processor)


def test_whatever_decides_a_number_decides_the_identity(tmp_path: Path) -> None:
    def change_weight(model: Any, processor: Any) -> None:
        model.model.audio_tower.conv1.bias[0] += 1e-3

    def change_filters(model: Any, processor: Any) -> None:
        processor.feature_extractor.mel_filters = processor.feature_extractor.mel_filters * 2

    def change_window(model: Any, processor: Any) -> None:
        processor.feature_extractor.n_fft = 512

    def change_attention(model: Any, processor: Any) -> None:
        model.model.audio_tower.config._attn_implementation = "eager"

    def change_dtype(model: Any, processor: Any) -> None:
        model.model.audio_tower.to(torch.bfloat16)

    digests = [describe_encoder(*build_tiny(tmp_path)).digest]
    for change in (change_weight, change_filters, change_window, change_attention, change_dtype):
        model, processor = build_tiny(tmp_path)
        with torch.no_grad():
            change(model, processor)
        digests.append(describe_encoder(model, processor).digest)
    assert len(set(digests)) == 6
    model, processor = build_tiny(tmp_path)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    assert describe_encoder(model, processor).digest == digests[0]
