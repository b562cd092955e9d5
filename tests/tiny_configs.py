"""Configurations of the tiny random models that tests build: what they have in common; tests name what differs."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, WhisperConfig


def make_whisper_config(**changes: Any) -> WhisperConfig:
    """Two encoder and two decoder layers, 16 wide, two heads; it hears 30 s."""
    options: dict[str, Any] = {
        "vocab_size": 60,
        "num_mel_bins": 80,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_source_positions": 1500,
        "max_target_positions": 24,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "decoder_start_token_id": 0,
    }
    return WhisperConfig(**(options | changes))


def make_llama_config(**changes: Any) -> LlamaConfig:
    """Two layers, 32 wide, for bytes and one token that ends."""
    options: dict[str, Any] = {
        "vocab_size": 257,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    return LlamaConfig(**(options | changes))
