"""Parts that do not fit are refused by name; adaptors travel; the paper's own scale can be built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    WhisperModel,
)

from oblong.errors import CorruptCheckpointError, SpeechModelError, UnsupportedFormatError
from oblong.models.speech_lm import (
    AdaptorConfig,
    SpeechLMForConditionalGeneration,
    build_speech_lm,
    load_adaptor,
    load_speech_lm,
    make_paper_config,
    save_adaptor,
)
from oblong.models.speech_lm.whisper_encoder import read_whisper_encoder
from tests.speech_builders import CHATML, build_tiny, make_tones, save_chatty_llama, save_tiny_whisper
from tests.tuning_builders import make_tokenizer

TINY: dict[str, Any] = {"vocab_size": 258, "bos_token_id": None, "eos_token_id": 256}


SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


def save_other(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>"]})
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return folder


def make_gpt2(**options: Any) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=256, **TINY, **options))


def make_neox() -> GPTNeoXForCausalLM:
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, **TINY, tie_word_embeddings=False))


def make_gemma2() -> Gemma2ForCausalLM:
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, **TINY, num_key_value_heads=1, head_dim=16))


def make_granite() -> GraniteForCausalLM:
    return GraniteForCausalLM(GraniteConfig(**SIZES, **TINY, num_key_value_heads=1, logits_scaling=3.0))


def make_phi() -> PhiForCausalLM:
    model = PhiForCausalLM(PhiConfig(**SIZES, **TINY))
    torch.nn.init.normal_(model.lm_head.bias)
    return model


def test_the_encoder_is_whispers(tmp_path: Path) -> None:
    path = save_tiny_whisper(tmp_path)
    encoder = read_whisper_encoder(path, torch.float32)
    whisper: Any = WhisperModel.from_pretrained(path)
    features = torch.randn(2, 20, 100)
    expected = whisper.encoder(features).last_hidden_state
    assert torch.equal(encoder(features).last_hidden_state, expected)
    assert encoder.config.max_source_positions == 50


@pytest.mark.parametrize("make", [make_gpt2, make_neox, make_gemma2, make_granite, make_phi])
def test_other_families_of_language_models_work(tmp_path: Path, make: Any) -> None:
    torch.manual_seed(0)
    bare = make().eval()
    model, processor = build_speech_lm(
        save_tiny_whisper(tmp_path / "whisper"), save_other(tmp_path / "llm", bare), dtype="float32"
    )
    inputs = processor.tokenizer("some text", return_tensors="pt")
    assert torch.equal(model(**inputs).logits, bare(**inputs).logits)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again, _ = load_speech_lm(tmp_path / "saved", dtype="float32")
    request = processor.apply_transcription_request(make_tones([0.4, 0.7]))
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(again.generate(**request, **options), model.generate(**request, **options))
    tied = again.lm_head.weight is again.get_input_embeddings().weight
    assert tied == bare.config.tie_word_embeddings


def test_a_language_model_with_a_rule_of_its_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oblong.models.speech_lm.head.finish_logits", lambda logits, config: logits)
    whisper = save_tiny_whisper(tmp_path / "whisper")
    with pytest.raises(SpeechModelError, match="a 'gemma2' model makes its logits in a way of its own"):
        build_speech_lm(whisper, save_other(tmp_path / "llm", make_gemma2()), dtype="float32")


def test_an_encoder_that_is_no_whisper_is_refused(tmp_path: Path) -> None:
    llama = save_chatty_llama(tmp_path)
    with pytest.raises(UnsupportedFormatError, match="is a 'llama' model; the encoder must come from a Whisper model"):
        build_speech_lm(llama, llama)


def test_a_feature_extractor_of_another_whisper_is_refused(tmp_path: Path) -> None:
    whisper, llama = save_tiny_whisper(tmp_path / "whisper"), save_chatty_llama(tmp_path / "llama")
    settings = whisper / "preprocessor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"feature_size": 80}))
    with pytest.raises(SpeechModelError, match="feature_size is 80, the encoder takes 20"):
        build_speech_lm(whisper, llama)


def test_an_encoder_that_lacks_tensors_is_refused(tmp_path: Path) -> None:
    whisper, llama = save_tiny_whisper(tmp_path / "whisper"), save_chatty_llama(tmp_path / "llama")
    weights = load_file(whisper / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "encoder.conv1" not in n}, whisper / "model.safetensors")
    with pytest.raises(CorruptCheckpointError, match="encoder does not fit"):
        build_speech_lm(whisper, llama)


def test_the_fresh_adaptor_has_the_scale_of_the_embeddings(tmp_path: Path) -> None:
    model, processor = build_tiny(tmp_path)
    request = processor.apply_transcription_request(make_tones([0.8]))
    tokens = model.get_audio_features(request["input_features"], request["input_features_mask"]).pooler_output
    rows = model.get_input_embeddings().weight.square().mean(-1).sqrt()
    assert float(tokens.detach().square().mean().sqrt()) == pytest.approx(float(rows.median()), rel=0.01)


def test_the_seed_decides_the_adaptor(tmp_path: Path) -> None:
    build_tiny(tmp_path)
    parts = (tmp_path / "whisper", tmp_path / "llama")
    weights = [
        build_speech_lm(*parts, dtype="float32", seed=seed)[0].model.multi_modal_projector.projection.weight
        for seed in (3, 3, 4)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_adaptor_travels_between_models_of_the_same_parts(tmp_path: Path) -> None:
    model, _ = build_tiny(tmp_path)
    save_adaptor(model, tmp_path / "adaptor.safetensors")
    other, _ = build_speech_lm(tmp_path / "whisper", tmp_path / "llama", dtype="float32", seed=9)
    load_adaptor(other, tmp_path / "adaptor.safetensors")
    for mine, theirs in zip(
        model.model.multi_modal_projector.parameters(), other.model.multi_modal_projector.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_an_adaptor_for_another_encoder_is_refused(tmp_path: Path) -> None:
    model, _ = build_tiny(tmp_path)
    save_adaptor(model, tmp_path / "adaptor.safetensors")
    wider = save_tiny_whisper(tmp_path / "wider", width=24)
    other, _ = build_speech_lm(wider, tmp_path / "llama", AdaptorConfig(downsampling=2), dtype="float32")
    with pytest.raises(SpeechModelError, match="encoder width is 16 there and 24 here; downsampling is 4 there"):
        load_adaptor(other, tmp_path / "adaptor.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CorruptCheckpointError, match="is no adaptor"):
        load_adaptor(other, tmp_path / "broken.safetensors")


def test_a_saved_model_with_another_encoders_adaptor_is_refused(tmp_path: Path) -> None:
    model, processor = build_tiny(tmp_path)
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    processor.save_pretrained(saved)
    weights = load_file(saved / "model.safetensors")
    name = "model.multi_modal_projector.projection.weight"
    save_file(weights | {name: torch.zeros(32, 96)}, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpeechModelError, match=rf"{name} have other widths"):
        load_speech_lm(saved)
    save_file({n: w for n, w in weights.items() if n != name}, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CorruptCheckpointError, match=rf"lacks .*{name}"):
        load_speech_lm(saved)


def test_only_a_whole_speech_lm_is_loaded(tmp_path: Path) -> None:
    model, processor = build_tiny(tmp_path)
    saved = tmp_path / "saved"
    with pytest.raises(UnsupportedFormatError, match="is a 'whisper' model, not a speech LLM"):
        load_speech_lm(tmp_path / "whisper")
    model.save_pretrained(saved)
    with pytest.raises(UnsupportedFormatError, match="its processor cannot be loaded"):
        load_speech_lm(saved)
    processor.downsampling = 8
    processor.save_pretrained(saved)
    with pytest.raises(SpeechModelError, match="its downsampling is 8, the model's 4"):
        load_speech_lm(saved)
    (saved / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CorruptCheckpointError, match="Safetensor"):
        load_speech_lm(saved)


def test_the_papers_scale_is_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = SpeechLMForConditionalGeneration(make_paper_config())
    parts = {
        "encoder": model.model.audio_tower,
        "adaptor": model.model.multi_modal_projector,
        "language model": model.model.language_model,
        "head": model.lm_head,
    }
    counts = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
    # Linear 5120 x 4096, two layers of four 4096 x 4096, biases, and four norms of 2 x 4096.
    adaptor = 5120 * 4096 + 4096 + 2 * 4 * (4096 * 4096 + 4096) + 4 * 2 * 4096
    assert {"LlamaDecoderLayer", "VoxtralEncoderLayer"} <= set(model._no_split_modules or ())  # what FSDP wraps
    assert counts == {
        "encoder": 636_968_960,
        "adaptor": adaptor,
        # Llama-3.1-8B has 8,030,261,248 parameters.
        "language model": 8_030_261_248 - 128_256 * 4096,
        "head": 128_256 * 4096,
    }
