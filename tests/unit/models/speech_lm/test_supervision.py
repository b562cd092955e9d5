"""Transcript and end of turn are learned and nothing else; the self-test sees every way to be wrong."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from oblong.errors import VerificationError
from oblong.models.speech_lm import check_supervision, make_training_inputs, pad_training_inputs
from tests.speech_builders import SpeechLM, build_tiny, make_tones

TEXTS = ("hello", "", "Grüße, <|end|> und <|audio|>!")
COUNTS = (4, 13, 2)


@pytest.fixture(scope="module")
def speech_lm(tmp_path_factory: pytest.TempPathFactory) -> SpeechLM:
    return build_tiny(tmp_path_factory.mktemp("model"))


def make_batch(speech_lm: SpeechLM, side: Literal["left", "right"] = "right") -> dict[str, torch.Tensor]:
    _, processor = speech_lm
    items = [
        make_training_inputs(processor, num_audio_tokens=count, text=text)
        for text, count in zip(TEXTS, COUNTS, strict=True)
    ]
    return pad_training_inputs(items, processor, side=side)


@pytest.mark.parametrize("side", ["left", "right"])
def test_exactly_transcript_and_end_are_learned(speech_lm: SpeechLM, side: Literal["left", "right"]) -> None:
    _, processor = speech_lm
    assert processor.tokenizer.pad_token == processor.tokenizer.eos_token == processor.end_of_turn == "<|end|>"
    batch = make_batch(speech_lm, side)
    for row, text in enumerate(TEXTS):
        learned = batch["labels"][row] != -100
        assert processor.tokenizer.decode(batch["labels"][row][learned]) == text + "<|end|>"
        assert int(learned.sum()) == len(text.encode()) + 1  # one token per byte, also for "<|end|>" spelled out
    check_supervision(processor, batch, texts=TEXTS, num_audio_tokens=COUNTS)


def test_the_prompt_is_the_one_for_decoding(speech_lm: SpeechLM) -> None:
    _, processor = speech_lm
    item = make_training_inputs(processor, num_audio_tokens=4, text="hello", language="de")
    request = processor.apply_transcription_request(make_tones([0.3]), language="de")
    prompt = item.input_ids[item.labels == -100]
    assert torch.equal(prompt, request["input_ids"][0])


def break_value(name: str, index: Any, value: int) -> Any:
    def change(batch: dict[str, torch.Tensor]) -> None:
        batch[name][index] = value

    return change


def drop_end(batch: dict[str, torch.Tensor]) -> None:
    """What masking the padding token by value does where padding is the end token."""
    batch["labels"][batch["labels"] == 256] = -100


def learn_prompt(batch: dict[str, torch.Tensor]) -> None:
    batch["labels"] = batch["input_ids"].clone()


def shift(batch: dict[str, torch.Tensor]) -> None:
    batch["labels"] = batch["labels"].roll(1, dims=1)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop_end, "row 0: 'hello' is learned, and not 'hello<|end|>'"),
        (learn_prompt, "row 0: audio placeholders are learned"),
        (learn_prompt, "row 0: padding is learned"),
        (shift, "row 0: labels are not the input ids"),
        (break_value("input_ids", (1, 14), 65), "row 1: 12 audio placeholders for 13 audio tokens"),
        (break_value("labels", (0, slice(None)), -100), "row 0: '' is learned"),
        (break_value("attention_mask", (0, slice(None)), 1), "row 0: tokens follow the end of the turn"),
    ],
)
def test_the_self_test_fails_on(speech_lm: SpeechLM, spoil: Any, said: str) -> None:
    _, processor = speech_lm
    batch = make_batch(speech_lm)
    spoil(batch)
    with pytest.raises(VerificationError) as caught:
        check_supervision(processor, batch, texts=TEXTS, num_audio_tokens=COUNTS)
    assert said in str(caught.value)
