"""A tiny Whisper that hears one second, a tiny Llama that chats, and tones to transcribe: what the speech tests use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from oblong.checkpoints.locate import demo_model_dir, named_model_dir
from oblong.checkpoints.named import NAMED_MODELS, WHISPER_TINY_EN
from oblong.models.causal_lm import Dtype
from oblong.models.speech_lm import AdaptorConfig, build_speech_lm
from tests.tiny_configs import make_whisper_config
from tests.tuning_builders import make_tokenizer, save_tiny_llama

SAMPLING_RATE = 16_000
MAX_SOURCE_POSITIONS = 50
WINDOW_SAMPLES = MAX_SOURCE_POSITIONS * 320
CHATML = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)

# Model and processor, as build_speech_lm returns them; Any, since half of what the tests call has no annotations.
SpeechLM = tuple[Any, Any]


def save_tiny_whisper(directory: Path, *, width: int = 16, seed: int = 0, **config: Any) -> Path:
    """A Whisper of 2 + 1 layers that hears 1 s, in `directory`."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "vocab_size": 64,
        "num_mel_bins": 20,
        "d_model": width,
        "decoder_layers": 1,
        "max_source_positions": MAX_SOURCE_POSITIONS,
        "max_target_positions": 16,
    }
    WhisperForConditionalGeneration(make_whisper_config(**(options | config))).save_pretrained(directory)
    extractor: Any = WhisperFeatureExtractor
    extractor(feature_size=20, chunk_length=1).save_pretrained(directory)
    return directory


def save_chatty_llama(directory: Path, **config: Any) -> Path:
    """A tiny Llama with a chat template of its own, and a tokenizer whose padding is the end token, as in SmolLM2."""
    options: dict[str, Any] = {"vocab_size": 258, "eos_token_id": 256, "max_position_embeddings": 256} | config
    save_tiny_llama(directory, **options)
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>"], "pad_token": "<|end|>"})
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(directory)
    return directory


def build_tiny(
    folder: Path, *, dtype: Dtype = "float32", adaptor: AdaptorConfig | None = None, **config: Any
) -> SpeechLM:
    """A tiny speech LLM; its parts are saved below `folder` unless they are there."""
    if not (folder / "whisper").exists():
        save_tiny_whisper(folder / "whisper")
    if not (folder / "llama").exists():
        save_chatty_llama(folder / "llama", dtype=torch.float32 if dtype == "float32" else torch.bfloat16, **config)
    return build_speech_lm(folder / "whisper", folder / "llama", adaptor, dtype=dtype)


def wake_attention(model: Any, *, seed: int = 1) -> None:
    """Give the adaptor's attention layers something to say, as training would; a fresh one is silent."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.model.multi_modal_projector.layers:
        projection: Any = layer.out_proj
        with torch.no_grad():
            projection.weight.copy_(torch.randn(projection.weight.shape, generator=generator) * 0.3)


def make_tone(index: int, *, seconds: float = 0.5) -> np.ndarray[Any, Any]:
    """Two notes and a little noise, different for each index; float32 at 16 kHz."""
    rng = np.random.default_rng(index)
    time = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    first, second = 200 + 150 * index, 2600 - 170 * index
    notes = np.where(time < time[-1] / 2, np.sin(2 * np.pi * first * time), np.sin(2 * np.pi * second * time))
    samples: np.ndarray[Any, Any] = (0.3 * notes + 0.01 * rng.standard_normal(time.size)).astype(np.float32)
    return samples


def make_tones(seconds: Sequence[float]) -> list[np.ndarray[Any, Any]]:
    """One tone for each length."""
    return [make_tone(index, seconds=length) for index, length in enumerate(seconds)]


def find_real_models() -> tuple[Path, Path]:
    """whisper-tiny.en and the demo model; the test is skipped where they have not been fetched."""
    whisper, language_model = named_model_dir(NAMED_MODELS[WHISPER_TINY_EN]), demo_model_dir()
    for path in (whisper, language_model):
        if not (path / "model.safetensors").exists():
            pytest.skip(f"{path.name} has not been fetched")
    return whisper, language_model
