"""whisper-tiny.en and SmolLM2: the encoder is Whisper's, text is SmolLM2's, the prompt is its chat template's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, WhisperModel

from oblong.models.speech_lm import build_speech_lm
from tests.speech_builders import find_real_models


def test_real_parts_are_joined_without_a_changed_bit() -> None:
    whisper_path, language_path = find_real_models()
    built: Any = build_speech_lm(whisper_path, language_path)
    model, processor = built
    assert model.config.audio_config.max_source_positions == 1500
    assert processor.end_of_turn == "<|im_end|>"
    assert model.config.audio_token_id == 49_152 == model.config.text_config.vocab_size
    bare: Any = AutoModelForCausalLM.from_pretrained(language_path, dtype=torch.bfloat16)
    text = processor.tokenizer(["The capital of France is"], return_tensors="pt")
    assert torch.equal(model(**text).logits, bare(**text).logits)
    request = processor.apply_transcription_request(np.zeros(32_000, np.float32))
    with torch.no_grad():
        encoded = model.encode_audio(request["input_features"], request["input_features_mask"])
        whisper: Any = WhisperModel.from_pretrained(whisper_path, dtype=torch.bfloat16)
        expected = whisper.encoder(request["input_features"].bfloat16()).last_hidden_state
        tokens = model.get_audio_features(audio_features=encoded.split()).pooler_output
    assert torch.equal(encoded.frames, expected[:, :100])
    assert tokens.shape == (25, 576)
    assert tokens.dtype == torch.float32
    # LayerNorm of gain 1 would be 7.8 times too loud for this language model.
    assert 0.1 < float(tokens.square().mean().sqrt()) < 0.17
