"""From CTranslate2 to transformers: the same model, nothing lost, nothing invented, and no file believed blindly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

from oblong.errors import CorruptCheckpointError, UnsupportedFormatError
from oblong.models.ctranslate2 import read_ctranslate2
from oblong.models.whisper_conversion import convert_whisper
from oblong.models.whisper_weights import rename_whisper_weights
from tests.whisper_builders import list_arrays, make_whisper, write_ctranslate2_whisper, write_model_bin


def ignore(stage: str, done: int, total: int) -> None:
    """A progress callback that listens to nothing."""


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("whisper") / "ct2"
    write_ctranslate2_whisper(make_whisper(), source)
    convert_whisper(source, source.parent / "model", ignore)
    return source.parent / "model"


def test_the_converted_model_is_the_original_in_float16(converted: Path) -> None:
    expected = {name: values.half() for name, values in make_whisper().state_dict().items()}
    load: Any = WhisperForConditionalGeneration.from_pretrained
    model, report = load(converted, dtype=torch.float16, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], values) for name, values in expected.items())


def test_the_configuration_follows_from_the_shapes(converted: Path) -> None:
    model = WhisperForConditionalGeneration.from_pretrained(converted, dtype=torch.float32)
    config = model.config
    decoding: Any = model.generation_config
    assert (config.d_model, config.encoder_layers, config.decoder_layers, config.encoder_ffn_dim) == (16, 2, 2, 32)
    assert (config.encoder_attention_heads, config.max_target_positions, config.vocab_size) == (2, 24, 60)
    assert (config.decoder_start_token_id, config.eos_token_id, config.pad_token_id) == (1, 0, 0)
    assert (decoding.suppress_tokens, decoding.alignment_heads) == ([9], [[0, 1]])
    assert decoding.is_multilingual is False
    assert decoding.no_timestamps_token_id == 9


def test_audio_goes_in_and_tokens_come_out(converted: Path) -> None:
    processor = WhisperProcessor.from_pretrained(converted)
    extractor: Any = AutoFeatureExtractor
    assert extractor.from_pretrained(converted).sampling_rate == 16_000
    model = WhisperForConditionalGeneration.from_pretrained(converted, dtype=torch.float32)
    sound = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    features = processor(sound, sampling_rate=16_000, return_tensors="pt").input_features
    assert model(features, decoder_input_ids=torch.tensor([[1]])).logits.shape == (1, 1, 60)


def test_an_array_that_is_missing_or_left_over_is_named() -> None:
    arrays = list_arrays(make_whisper())
    without = {name: values for name, values in arrays.items() if name != "encoder/conv2/bias"}
    with pytest.raises(UnsupportedFormatError, match="encoder/conv2/bias"):
        rename_whisper_weights(without)
    with pytest.raises(UnsupportedFormatError, match="decoder/adapter/weight"):
        rename_whisper_weights({**arrays, "decoder/adapter/weight": np.ones((2, 2))})


def test_a_bias_of_k_is_not_dropped_silently() -> None:
    arrays = list_arrays(make_whisper())
    arrays["encoder/layer_1/self_attention/linear_0/bias"] = np.ones(48, np.float16)
    with pytest.raises(UnsupportedFormatError, match=r"layers\.1\.self_attn\.k_proj"):
        rename_whisper_weights(arrays)


def test_a_model_bin_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_model_bin({"a": np.ones((2, 3), np.float16)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptCheckpointError, match="CTranslate2"):
            read_ctranslate2(path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    write_model_bin({"decoder/embeddings/weight": np.ones((2, 3), np.float16)}, tmp_path / "model.bin", version=7)
    with pytest.raises(CorruptCheckpointError, match="binary version 7"):
        read_ctranslate2(tmp_path / "model.bin")
