"""The encoder hears a recording and a little silence, instead of a whole window."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oblong.errors import SpeechModelError
from oblong.models.speech_lm import SpeechLMConfig, load_speech_lm
from oblong.models.speech_lm.whisper_encoder import encode_start
from tests.speech_builders import SpeechLM, build_tiny, make_tones

SECONDS = (0.3, 1.0, 0.1)


@pytest.fixture(scope="module")
def speech_lm(tmp_path_factory: pytest.TempPathFactory) -> SpeechLM:
    return build_tiny(tmp_path_factory.mktemp("model"), dtype="float32")


def encode(speech_lm: SpeechLM, seconds: tuple[float, ...], silence: float | None) -> list[torch.Tensor]:
    model, processor = speech_lm
    model.config.trailing_silence = silence
    inputs = processor.apply_transcription_request(make_tones(seconds))
    frames: list[torch.Tensor] = model.encode_audio(inputs["input_features"], inputs["input_features_mask"]).split()
    return frames


def test_a_whole_window_in_pieces_is_the_whole_window(speech_lm: SpeechLM) -> None:
    model, processor = speech_lm
    inputs = processor.apply_transcription_request(make_tones(SECONDS))
    tower = model.model.audio_tower
    whole = tower(inputs["input_features"]).last_hidden_state
    assert torch.equal(encode_start(tower, inputs["input_features"], whole.shape[1]), whole)


def test_as_much_silence_as_the_window_holds_changes_nothing(speech_lm: SpeechLM) -> None:
    for full, filled in zip(encode(speech_lm, SECONDS, None), encode(speech_lm, SECONDS, 30.0), strict=True):
        torch.testing.assert_close(filled, full, rtol=1e-5, atol=1e-5)


def test_what_is_heard_decides_what_is_said(speech_lm: SpeechLM) -> None:
    short, long = (encode(speech_lm, SECONDS, silence) for silence in (0.0, 0.5))
    assert [len(frames) for frames in short] == [len(frames) for frames in long] == [15, 50, 5]
    assert not torch.equal(short[0], long[0])


def test_neighbours_in_a_batch_change_no_bit(speech_lm: SpeechLM) -> None:
    together = encode(speech_lm, SECONDS, 0.2)
    for index, seconds in enumerate(SECONDS):
        tones = make_tones(SECONDS)[index : index + 1]
        model, processor = speech_lm
        inputs = processor.apply_transcription_request(tones)
        alone = model.encode_audio(inputs["input_features"], inputs["input_features_mask"]).split()
        assert torch.equal(alone[0], together[index]), seconds


def test_it_is_saved_with_the_model(speech_lm: SpeechLM, tmp_path: Path) -> None:
    model, processor = speech_lm
    model.config.trailing_silence = 1.5
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, _ = load_speech_lm(tmp_path, dtype="float32")
    assert again.config.trailing_silence == 1.5


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_no_such_silence(speech_lm: SpeechLM, seconds: float) -> None:
    parts = speech_lm[0].config.to_dict() | {"trailing_silence": seconds}
    with pytest.raises(SpeechModelError, match="trailing_silence"):
        SpeechLMConfig(**parts)
