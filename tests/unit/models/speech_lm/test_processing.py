"""Recordings and prompts become inputs; what the encoder cannot hear is refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oblong.errors import SpeechInputError
from oblong.models.speech_lm.frames import count_audio_tokens
from tests.speech_builders import WINDOW_SAMPLES, SpeechLM, build_tiny, make_tone, make_tones


@pytest.fixture(scope="module")
def speech_lm(tmp_path_factory: pytest.TempPathFactory) -> SpeechLM:
    return build_tiny(tmp_path_factory.mktemp("model"))


def test_a_request_has_the_language_models_words_and_one_placeholder_per_token(speech_lm: SpeechLM) -> None:
    model, processor = speech_lm
    clips = make_tones([0.2, 0.9])
    batch = processor.apply_transcription_request(clips)
    text = "<|start|>user\n<|audio|>Transcribe the speech.<|end|>\n<|start|>assistant\n"
    assert processor.make_prompt() == text
    for row, clip in enumerate(clips):
        count = count_audio_tokens(len(clip), model.config)
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        assert processor.tokenizer.decode(ids) == text.replace("<|audio|>", "<|audio|>" * count)
        assert int((ids == model.config.audio_token_id).sum()) == count
    assert not batch["attention_mask"][0, 0]  # the shorter one is padded on the left
    assert batch["input_features"].shape == (2, 20, 100)
    assert batch["input_features_mask"].sum(-1).tolist() == [20, 90]
    assert "num_audio_tokens" not in batch


def test_the_request_is_the_chat_templates(speech_lm: SpeechLM) -> None:
    _, processor = speech_lm
    clip = make_tone(0)
    message = {"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": "What is said?"}]}
    chat = processor.apply_chat_template([message], tokenize=True, add_generation_prompt=True, return_dict=True)
    request = processor.apply_transcription_request(clip, prompt="What is said?")
    assert chat.keys() == request.keys()
    for name, value in request.items():
        assert torch.equal(value, chat[name])


def test_the_language_is_a_part_of_the_instruction(speech_lm: SpeechLM) -> None:
    _, processor = speech_lm
    assert "Transcribe the German speech." in processor.make_prompt(language="de")
    assert processor.make_prompt(language="german") == processor.make_prompt(language="de")
    texts = processor.apply_transcription_request(make_tones([0.1, 0.1]), language=["de", None], tokenize=False)
    assert texts == [processor.make_prompt(language="de"), processor.make_prompt()]
    with pytest.raises(SpeechInputError, match="no language 'klingon'"):
        processor.make_prompt(language="klingon")
    with pytest.raises(SpeechInputError, match="a prompt or a language"):
        processor.make_prompt(language="de", prompt="Listen.")
    with pytest.raises(SpeechInputError, match="1 values of language for 2 recordings"):
        processor.apply_transcription_request(make_tones([0.1, 0.1]), language=["de"])


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (np.zeros(0, np.float32), "recording 0 is empty"),
        (np.zeros(WINDOW_SAMPLES + 1, np.float32), r"recording 0 is 1.00 s long and the encoder hears 1.00 s at once"),
        (np.zeros((1, 400, 2), np.float32), r"recording 0 has shape \(400, 2\): pass mono"),
        (np.zeros(400, np.int16), "recording 0 holds int16"),
        (np.full(400, np.nan, np.float32), "recording 0 has samples that are not finite"),
        ("speech.wav", "takes samples, not paths"),
        ([], "there is no audio"),
    ],
)
def test_bad_audio_is_refused(speech_lm: SpeechLM, clip: Any, said: str) -> None:
    _, processor = speech_lm
    with pytest.raises(SpeechInputError, match=said):
        processor.apply_transcription_request(list(clip) if getattr(clip, "ndim", 1) == 3 else clip)


def test_another_sampling_rate_is_refused(speech_lm: SpeechLM) -> None:
    _, processor = speech_lm
    with pytest.raises(SpeechInputError, match="at 48000 Hz and the encoder takes 16000 Hz"):
        processor.apply_transcription_request(make_tone(0), sampling_rate=48_000)


@pytest.mark.parametrize("samples", [np.zeros(8000, np.float32), make_tone(0, seconds=0.1), make_tone(0, seconds=1.0)])
def test_silence_and_very_short_and_full_windows_are_heard(speech_lm: SpeechLM, samples: Any) -> None:
    model, processor = speech_lm
    batch = processor.apply_transcription_request(samples)
    assert torch.isfinite(model(**batch).logits).all()


def test_tensors_and_double_precision_are_the_same_audio(speech_lm: SpeechLM) -> None:
    _, processor = speech_lm
    clip = make_tone(3)
    expected = processor.apply_transcription_request(clip)["input_features"]
    for same in (torch.from_numpy(clip), clip.astype(np.float64), [clip], clip.tolist()):
        assert torch.equal(processor.apply_transcription_request(same)["input_features"], expected)


def test_text_alone_needs_no_audio(speech_lm: SpeechLM) -> None:
    _, processor = speech_lm
    batch = processor(text=["one", "and two"])
    assert batch.keys() == {"input_ids", "attention_mask"}


def test_the_placeholder_lies_past_the_vocabulary_and_nothing_is_resized(speech_lm: SpeechLM, tmp_path: Path) -> None:
    model, _ = speech_lm
    assert model.config.audio_token_id == model.config.text_config.vocab_size == 258
    assert model.lm_head.weight.shape == (258, 32)
    roomy, _ = build_tiny(tmp_path, vocab_size=272)  # Qwen-like: rows to spare, and the placeholder takes one
    assert roomy.config.audio_token_id == 258
    assert roomy.generation_config.suppress_tokens == [258]
