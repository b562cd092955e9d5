"""Models that hear, behind one protocol: Whisper, and language models with an ear.

A language model with an ear is any whose processor has `apply_transcription_request`, the entry point that
transformers' own audio language models share: oblong's SpeechLM, Voxtral, Audio Flamingo, Qwen3-ASR and others.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from oblong.errors import SelectionError, SpeechInputError
from oblong.records import Ending
from oblong.speech.decoding import WINDOW_SECONDS, Decoded, DecodingSettings, generate_guarded
from oblong.speech.sources import SAMPLE_RATE, Samples

# <|startoftranscript|>, language, task, <|notimestamps|>: they count against Whisper's `max_target_positions`.
WHISPER_PROMPT_TOKENS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a window was decoded to."""

    text: str
    num_tokens: int
    ending: Ending


class Transcriber(Protocol):
    """Turns windows of audio into text."""

    @property
    def max_seconds(self) -> float:
        """The longest window it takes."""

    def check_language(self, lang: str | None) -> None:
        """Raise SelectionError if it cannot transcribe this language; None is always right."""

    def transcribe(self, windows: Sequence[Samples], lang: str | None, settings: DecodingSettings) -> list[Heard]:
        """Decode one batch of windows, all in one language; None lets the model find out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperTranscriber:
    """Whisper as transformers has it, without timestamps and without its fallback to sampling."""

    model: Any
    processor: Any
    max_seconds: float = WINDOW_SECONDS

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that it was trained on."""
        configuration = self.model.generation_config
        if not getattr(configuration, "is_multilingual", False):
            return ("en",)
        return tuple(sorted(token.strip("<|>") for token in configuration.lang_to_id))

    def check_language(self, lang: str | None) -> None:
        """See `Transcriber`."""
        if lang is None or lang in self.languages:
            return
        if len(self.languages) == 1:
            raise SelectionError(f"this Whisper model knows English only, not {lang!r}: choose a multilingual one")
        raise SelectionError(f"Whisper knows no language {lang!r}: its codes are {', '.join(self.languages)}")

    def transcribe(self, windows: Sequence[Samples], lang: str | None, settings: DecodingSettings) -> list[Heard]:
        """See `Transcriber`."""
        features = self.processor.feature_extractor(
            list(windows), sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True
        )
        features = features.to(self.model.device, self.model.dtype)
        language = {} if len(self.languages) == 1 else {"language": lang, "task": "transcribe"}
        room = self.model.config.max_target_positions - WHISPER_PROMPT_TOKENS
        limits = [min(room, limit) for limit in _limit_windows(windows, settings)]
        # Whisper's own `generate` returns the new tokens only.
        rows = generate_guarded(self.model, features, limits, prompt_length=0, num_beams=settings.num_beams, **language)
        return read_rows(self.processor.tokenizer, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioLanguageModelTranscriber:
    """A language model whose processor has `apply_transcription_request`.

    `prompt` replaces the whole of its own instruction, the name of the language included.
    """

    model: Any
    processor: Any
    prompt: str | None = None

    @property
    def max_seconds(self) -> float:
        """What its encoder takes; Whisper's 30 s where the processor does not say."""
        extractor = getattr(self.processor, "feature_extractor", None)
        return float(getattr(extractor, "chunk_length", WINDOW_SECONDS))

    def check_language(self, lang: str | None) -> None:
        """See `Transcriber`; what a language model knows is not written anywhere, but what our prompts can name is."""
        name = getattr(self.processor, "make_instruction", None)
        if lang is None or self.prompt is not None or name is None:
            return
        try:
            name(lang)
        except SpeechInputError as error:
            raise SelectionError(str(error)) from error

    def transcribe(self, windows: Sequence[Samples], lang: str | None, settings: DecodingSettings) -> list[Heard]:
        """See `Transcriber`."""
        request = self.processor.apply_transcription_request
        takes_language = "language" in inspect.signature(request).parameters
        named = takes_language and lang is not None and self.prompt is None
        options = {"language": lang} if named else {}
        inputs = request(list(windows), prompt=self.prompt, **options).to(self.model.device, self.model.dtype)
        tokenizer = self.processor.tokenizer
        rows = generate_guarded(
            self.model,
            inputs,
            _limit_windows(windows, settings),
            prompt_length=inputs["input_ids"].shape[1],
            num_beams=settings.num_beams,
            pad_token_id=tokenizer.pad_token_id,
        )
        return read_rows(tokenizer, rows)


def _limit_windows(windows: Sequence[Samples], settings: DecodingSettings) -> list[int]:
    return [settings.limit_tokens(len(samples) / SAMPLE_RATE) for samples in windows]


def read_rows(tokenizer: Any, rows: Sequence[Decoded]) -> list[Heard]:
    """Tokens as text."""
    return [
        Heard(
            text=tokenizer.decode(list(row.tokens), skip_special_tokens=True).strip(),
            num_tokens=len(row.tokens),
            ending=row.ending,
        )
        for row in rows
    ]
