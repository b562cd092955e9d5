"""LoRA works, and gated LoRA leaves text as it was, bit for bit, while it transcribes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from oblong.errors import SpeechInputError
from oblong.models.speech_lm import make_training_inputs, pad_training_inputs
from tests.speech_builders import SpeechLM, build_tiny, make_tones, wake_attention

peft: Any = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")

TARGETS = r".*language_model.*\.(q_proj|v_proj|down_proj)"


def make_batch(speech_lm: SpeechLM) -> dict[str, torch.Tensor]:
    model, processor = speech_lm
    request = processor.apply_transcription_request(make_tones([0.3, 0.8]))
    counts = (request["input_ids"] == model.config.audio_token_id).sum(-1).tolist()
    items = [make_training_inputs(processor, num_audio_tokens=count, text="abc") for count in counts]
    audio = {name: request[name] for name in ("input_features", "input_features_mask")}
    return pad_training_inputs(items, processor) | audio


def add_adapters(speech_lm: SpeechLM, *, gated: bool) -> Any:
    model, _ = speech_lm
    wake_attention(model)
    model.config.audio_gated_adapters = gated
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=TARGETS, r=2, init_lora_weights=False))
    adapted.eval()
    return adapted


def test_plain_lora_trains_with_the_adaptor_and_is_saved(tmp_path: Path) -> None:
    speech_lm = build_tiny(tmp_path)
    batch = make_batch(speech_lm)
    config = peft.LoraConfig(target_modules=TARGETS, r=2, modules_to_save=["multi_modal_projector"])
    adapted = peft.get_peft_model(speech_lm[0], config)
    adapted.train()
    adapted(**batch).loss.backward()
    learned = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert any("lora_B" in name for name in learned)
    assert any("multi_modal_projector" in name for name in learned)
    assert not any("audio_tower" in name or "lm_head" in name for name in learned)
    adapted.eval()
    expected = adapted(**batch).logits
    adapted.save_pretrained(tmp_path / "adapter")
    fresh, _ = build_tiny(tmp_path)
    again = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    assert torch.equal(again(**batch).logits, expected)


def test_gated_adapters_leave_text_bit_identical(tmp_path: Path) -> None:
    bare, processor = build_tiny(tmp_path)
    wake_attention(bare)
    text = processor.tokenizer(["some text", "more of it, and longer"], return_tensors="pt", padding=True)
    expected = bare(**text).logits.clone()
    heard = bare(**make_batch((bare, processor))).logits.clone()
    for gated in (False, True):
        speech_lm = build_tiny(tmp_path)
        adapted = add_adapters(speech_lm, gated=gated)
        audio = make_batch(speech_lm)
        assert not torch.equal(adapted(**audio).logits, heard)
        assert torch.equal(adapted(**text).logits, expected) == gated
        assert not torch.equal(adapted(**audio).logits, heard)  # and on again


def test_gated_adapters_decode_audio_as_plain_ones_and_text_as_none(tmp_path: Path) -> None:
    steps: dict[str, Any] = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
    bare, processor = build_tiny(tmp_path)
    text = processor.tokenizer("some text", return_tensors="pt")
    request = processor.apply_transcription_request(make_tones([0.3, 0.8]))
    continued = bare.generate(**text, **steps)
    plain = add_adapters(build_tiny(tmp_path), gated=False)
    state = plain.state_dict()
    gated = add_adapters(build_tiny(tmp_path), gated=True)
    gated.load_state_dict(state)
    for options in ({}, {"num_beams": 2}):
        assert torch.equal(gated.generate(**request, **steps, **options), plain.generate(**request, **steps, **options))
    assert torch.equal(gated.generate(**text, **steps), continued)


def test_gated_adapters_go_on_learning_between_measurements_of_text(tmp_path: Path) -> None:
    speech_lm = build_tiny(tmp_path)
    adapted = add_adapters(speech_lm, gated=True)
    text = speech_lm[1].tokenizer("some text", return_tensors="pt")
    batch = make_batch(speech_lm)
    adapted.train()
    for _ in range(2):
        adapted.zero_grad(set_to_none=True)
        adapted(**text)
        adapted(**batch).loss.backward()
        gradients = [parameter.grad for name, parameter in adapted.named_parameters() if "lora_" in name]
        assert all(gradient is not None and float(gradient.abs().max()) > 0 for gradient in gradients)


def test_one_switch_cannot_serve_a_mixed_batch(tmp_path: Path) -> None:
    model, processor = build_tiny(tmp_path)
    model.config.audio_gated_adapters = True
    request = processor(text=["<|audio|>Listen.", "No audio here."], audio=make_tones([0.4]))
    with pytest.raises(SpeechInputError, match="audio in every row or in none"):
        model(**request)
    model.config.audio_gated_adapters = False
    assert torch.isfinite(model(**request).logits).all()
