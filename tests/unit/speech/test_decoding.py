from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BatchFeature

from oblong.models.causal_lm import load_causal_lm
from oblong.models.quiet import quiet_transformers
from oblong.records import Ending
from oblong.speech.decoding import DecodingSettings, RowGuard, finish_row
from oblong.speech.loading import load_transcriber
from oblong.speech.sources import SAMPLE_RATE, Samples
from oblong.speech.transcribers import AudioLanguageModelTranscriber, Transcriber, WhisperTranscriber
from tests.transcription_builders import make_tone, save_tiny_whisper
from tests.tuning_builders import save_tiny_llama

SETTINGS = DecodingSettings(base_tokens=6, tokens_per_second=8)
DURATIONS = (0.4, 1.0, 3.1, 0.7, 5.0, 2.2, 0.3, 1.6)
NO_END = frozenset[int | None]((None,))


def make_windows() -> list[Samples]:
    """Eight windows of different length, pitch and noise."""
    generator = np.random.default_rng(0)
    tones = [make_tone(seconds, hertz=200 + 90 * place) for place, seconds in enumerate(DURATIONS)]
    return [(tone + 0.05 * generator.normal(size=len(tone))).astype(np.float32) for tone in tones]


class HashingProcessor:
    """A processor that puts into the prompt one token for each 100 ms of audio, padded on the left."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.languages: list[str | None] = []
        self.prompts: list[str | None] = []

    def apply_transcription_request(
        self, audio: Sequence[Samples], prompt: str | None = None, language: str | None = None
    ) -> BatchFeature:
        self.languages.append(language)
        self.prompts.append(prompt)
        rows = [[int(1000 * abs(clip[place])) % 200 for place in range(0, len(clip), 1600)] for clip in audio]
        width = max(map(len, rows))
        ids = [[0] * (width - len(row)) + row for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        return BatchFeature({"input_ids": ids, "attention_mask": mask}, tensor_type="pt")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> WhisperTranscriber:
    folder = save_tiny_whisper(tmp_path_factory.mktemp("models") / "whisper")
    transcriber = load_transcriber(str(folder), device="cpu").transcriber
    assert isinstance(transcriber, WhisperTranscriber)
    return transcriber


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> AudioLanguageModelTranscriber:
    folder = save_tiny_llama(tmp_path_factory.mktemp("models") / "llama", tied=False)
    loaded = load_causal_lm(str(folder), dtype="float32")
    for parameter in loaded.model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2)
    return AudioLanguageModelTranscriber(model=loaded.model, processor=HashingProcessor(loaded.tokenizer))


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("kind", ["whisper", "language_model"])
def test_a_batch_is_decoded_as_its_rows_alone(kind: str, num_beams: int, request: pytest.FixtureRequest) -> None:
    transcriber: Transcriber = request.getfixturevalue(kind)
    settings = DecodingSettings(base_tokens=6, tokens_per_second=8, num_beams=num_beams)
    windows = make_windows()[: 8 if num_beams == 1 else 3]
    together = transcriber.transcribe(windows, "de", settings)
    alone = [transcriber.transcribe([window], "de", settings)[0] for window in windows]
    assert together == alone
    assert len({heard.text for heard in together}) > 2  # the model listens: not one answer for all


@pytest.mark.parametrize("kind", ["whisper", "language_model"])
def test_every_row_has_a_limit_of_its_own(kind: str, request: pytest.FixtureRequest) -> None:
    transcriber: Transcriber = request.getfixturevalue(kind)
    heard = transcriber.transcribe(make_windows(), "en", SETTINGS)
    limits = [SETTINGS.limit_tokens(seconds) for seconds in DURATIONS]
    assert all(row.num_tokens <= limit for row, limit in zip(heard, limits, strict=True))
    cut = [row.num_tokens == limit for row, limit in zip(heard, limits, strict=True)]
    assert any(cut)  # random models do not stop by themselves
    assert [row.ending is Ending.LIMIT for row in heard] == cut


def test_the_language_reaches_the_processor_unless_the_prompt_replaces_it(
    language_model: AudioLanguageModelTranscriber,
) -> None:
    windows = make_windows()[:1]
    processor = language_model.processor
    processor.languages.clear()
    processor.prompts.clear()
    language_model.transcribe(windows, "de", SETTINGS)
    other = AudioLanguageModelTranscriber(model=language_model.model, processor=processor, prompt="Write it down.")
    other.transcribe(windows, "de", SETTINGS)
    assert processor.languages == ["de", None]
    assert processor.prompts == [None, "Write it down."]


def test_the_limit_grows_with_the_audio() -> None:
    settings = DecodingSettings(base_tokens=10, tokens_per_second=20)
    assert [settings.limit_tokens(seconds) for seconds in (0.0, 0.1, 30.0)] == [10, 12, 610]


def test_the_guard_stops_rows_one_by_one() -> None:
    guard = RowGuard([3, 40, 40])
    looping, lively = [9] * 16, list(range(16))
    prompt = [1, 2]
    assert guard(torch.tensor([[*prompt, 5]] * 3), None).tolist() == [False, False, False]
    rows = torch.tensor([prompt + lively, prompt + looping, prompt + lively])
    assert guard(rows, None).tolist() == [True, True, False]


def test_beams_share_the_limit_of_their_row() -> None:
    guard = RowGuard([1, 2])
    assert guard(torch.tensor([[7], [8], [7], [8]]), None).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("tokens", "kept", "ending"),
    [
        ([4, 5, 0, 0], (4, 5), Ending.END),  # 0 ends, and pads
        ([4, 5, 6, 7], (4, 5, 6, 7), Ending.END),
        ([4, 5] + [6, 7] * 8, (4, 5, 6, 7), Ending.LOOP),
        (list(range(1, 21)), tuple(range(1, 21)), Ending.LIMIT),
        (list(range(1, 30)), tuple(range(1, 21)), Ending.LIMIT),  # a model without an end token runs on in company
        ([0], (), Ending.END),
    ],
)
def test_a_row_says_how_it_ended(tokens: list[int], kept: tuple[int, ...], ending: Ending) -> None:
    row = finish_row(tokens, 20, frozenset((0, None)))
    assert (row.tokens, row.ending) == (kept, ending)


def test_sixteen_times_the_same_is_a_loop_also_at_the_limit() -> None:
    assert finish_row([3] * 16, 16, NO_END).ending is Ending.LOOP


def test_a_window_is_seconds_of_16_khz() -> None:
    assert [len(window) for window in make_windows()] == [round(seconds * SAMPLE_RATE) for seconds in DURATIONS]


def test_whisper_writes_what_transformers_writes(whisper: WhisperTranscriber) -> None:
    windows = make_windows()[:4]
    limit = max(SETTINGS.limit_tokens(len(window) / SAMPLE_RATE) for window in windows)
    features = whisper.processor.feature_extractor(windows, sampling_rate=SAMPLE_RATE, return_tensors="pt")
    with quiet_transformers():
        ids = whisper.model.generate(features.input_features, language="de", task="transcribe", max_new_tokens=limit)
    expected = whisper.processor.batch_decode(ids, skip_special_tokens=True)
    heard = whisper.transcribe(windows, "de", SETTINGS)
    assert all(text.startswith(row.text) for text, row in zip(expected, heard, strict=True))
    longest = [len(window) for window in windows].index(max(map(len, windows)))
    assert heard[longest].ending in (Ending.LOOP, Ending.LIMIT)
