"""Decoding: batches and beams agree with single recordings; audio alone gets the model's own prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import pipeline

from oblong.errors import SpeechInputError
from oblong.models.quiet import quiet_transformers
from tests.speech_builders import SpeechLM, build_tiny, make_tones, wake_attention

SECONDS = (0.3, 1.0, 0.1, 0.7)
STEPS: dict[str, Any] = {"max_new_tokens": 12, "min_new_tokens": 12}


@pytest.fixture(scope="module")
def speech_lm(tmp_path_factory: pytest.TempPathFactory) -> SpeechLM:
    # Tied and timid, a random model repeats its last token whatever it hears.
    built = build_tiny(tmp_path_factory.mktemp("model"), tied=False, initializer_range=0.3)
    wake_attention(built[0])
    built[0].model.multi_modal_projector.set_output_scale(1.0)
    return built


def transcribe(speech_lm: SpeechLM, clips: list[Any], **options: Any) -> torch.Tensor:
    model, processor = speech_lm
    batch = processor.apply_transcription_request(clips)
    result: torch.Tensor = model.generate(**batch, **STEPS, **options)[:, batch["input_ids"].shape[1] :]
    return result


def test_a_batch_gives_every_recording_what_it_gets_alone(speech_lm: SpeechLM) -> None:
    clips = make_tones(SECONDS)
    together = transcribe(speech_lm, clips)
    alone = torch.cat([transcribe(speech_lm, [clip]) for clip in clips])
    assert torch.equal(together, alone)
    assert len({tuple(row) for row in together.tolist()}) > 1  # it does listen


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"use_cache": False},
        {"num_beams": 2, "num_return_sequences": 2},
    ],
)
def test_other_ways_to_decode_agree_with_single_recordings(speech_lm: SpeechLM, options: dict[str, Any]) -> None:
    clips = make_tones(SECONDS[:2])
    together = transcribe(speech_lm, clips, **options)
    alone = torch.cat([transcribe(speech_lm, [clip], **options) for clip in clips])
    assert torch.equal(together, alone)


def test_the_cache_changes_nothing(speech_lm: SpeechLM) -> None:
    clips = make_tones(SECONDS)
    assert torch.equal(transcribe(speech_lm, clips), transcribe(speech_lm, clips, use_cache=False))


def test_encoder_states_decode_as_their_recordings(speech_lm: SpeechLM) -> None:
    model, processor = speech_lm
    batch = processor.apply_transcription_request(make_tones(SECONDS))
    expected = model.generate(**batch, **STEPS)
    features = model.encode_audio(batch.pop("input_features"), batch.pop("input_features_mask"))
    assert torch.equal(model.generate(**batch, audio_features=features.split(), **STEPS), expected)


def test_audio_alone_gets_the_models_own_prompt(speech_lm: SpeechLM) -> None:
    model, processor = speech_lm
    clips = make_tones(SECONDS)
    batch = processor.apply_transcription_request(clips)
    features, mask = batch["input_features"], batch["input_features_mask"]
    found = model.generate(features, attention_mask=mask, **STEPS)
    assert torch.equal(found, transcribe(speech_lm, clips))
    beams = model.generate(input_features=features, input_features_mask=mask, num_beams=2, **STEPS)
    assert torch.equal(beams, transcribe(speech_lm, clips, num_beams=2))
    output = model.generate(features, attention_mask=mask, return_dict_in_generate=True, **STEPS)
    assert torch.equal(output.sequences, found)


def test_text_is_continued_without_audio(speech_lm: SpeechLM) -> None:
    model, processor = speech_lm
    inputs = processor.tokenizer("once upon", return_tensors="pt")
    by_name = model.generate(**inputs, **STEPS)
    assert torch.equal(model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], **STEPS), by_name)
    assert by_name.shape == (1, 9 + 12)


def test_recordings_and_prompts_go_one_to_one(speech_lm: SpeechLM) -> None:
    model, processor = speech_lm
    batch = processor.apply_transcription_request(make_tones(SECONDS[:2]))
    batch["input_ids"] = batch["input_ids"][:1]
    with pytest.raises(SpeechInputError, match="2 recordings for 1 prompts"):
        model.generate(**batch)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_speech_recognition_pipeline_works(speech_lm: SpeechLM, batch_size: int) -> None:
    model, processor = speech_lm
    clips = make_tones(SECONDS[:3])
    with quiet_transformers():
        recognise: Any = pipeline(
            "automatic-speech-recognition",
            model=model,
            tokenizer=processor.tokenizer,
            feature_extractor=processor.feature_extractor,
        )
        inputs = [{"raw": clip, "sampling_rate": 16_000} for clip in clips]
        found = recognise(inputs, batch_size=batch_size, generate_kwargs={"num_beams": 1, **STEPS})
        rows = transcribe(speech_lm, clips, num_beams=1)
    expected = processor.tokenizer.batch_decode(rows, skip_special_tokens=True)
    assert [result["text"] for result in found] == expected
