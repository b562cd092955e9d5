"""Sounds, manifests, tiny random Whisper models that write letters, and a transcriber that is told what to hear."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers
from transformers import WhisperForConditionalGeneration

from oblong.errors import SelectionError
from oblong.models.whisper_conversion import find_token, make_generation_config
from oblong.records import Ending
from oblong.speech.decoding import DecodingSettings
from oblong.speech.loading import LoadedTranscriber
from oblong.speech.sources import SAMPLE_RATE, Samples
from oblong.speech.transcribers import Heard
from tests.tiny_configs import make_whisper_config

LETTERS = (*"abcdefghijklmnopqrstuvwxyz", "Ġ")
SPECIAL = (
    *("<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"),
    *("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
)


def make_tone(seconds: float, *, hertz: float = 440.0, amplitude: float = 0.3) -> Samples:
    """A sine at 16 kHz."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (amplitude * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def make_silence(seconds: float) -> Samples:
    """Digital silence at 16 kHz."""
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def write_sound(path: Path, samples: Samples, rate: int = SAMPLE_RATE) -> Path:
    """A 16-bit file of the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    return path


def write_manifest(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def save_tiny_whisper(folder: Path, *, seed: int = 0, multilingual: bool = True, positions: int = 64) -> Path:
    """Two layers, 16 wide, every parameter random; it writes letters, as many as it is let."""
    library: Any = transformers
    tokenizer = library.WhisperTokenizer(
        vocab={letter: place for place, letter in enumerate((*LETTERS, "<|endoftext|>"))}, merges=[]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    library.WhisperProcessor(library.WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    end = find_token(tokenizer, "<|endoftext|>")
    torch.manual_seed(seed)
    config = make_whisper_config(
        vocab_size=len(tokenizer),
        max_target_positions=positions,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=find_token(tokenizer, "<|startoftranscript|>"),
    )
    model = WhisperForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.3)
    languages = [find_token(tokenizer, token) for token in ("<|en|>", "<|de|>")]
    decoding = {
        "alignment_heads": [[0, 1]],
        "lang_ids": languages,
        "suppress_ids": [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL],
        "suppress_ids_begin": [end],
    }
    model.generation_config = make_generation_config(decoding, tokenizer, is_multilingual=multilingual)
    model.generation_config.max_length = positions
    model.save_pretrained(folder)
    return folder


class ScriptedTranscriber:
    """Says of every window what `hear` says; remembers the batches."""

    max_seconds = 30.0

    def __init__(self, hear: Callable[[Samples], str], *, langs: Sequence[str] = ("en", "de")) -> None:
        self.hear = hear
        self.langs = langs
        self.batches: list[tuple[str | None, list[float]]] = []

    def check_language(self, lang: str | None) -> None:
        if lang is not None and lang not in self.langs:
            raise SelectionError(f"it knows no {lang!r}")

    def transcribe(self, windows: Sequence[Samples], lang: str | None, settings: DecodingSettings) -> list[Heard]:
        self.batches.append((lang, [len(window) / SAMPLE_RATE for window in windows]))
        texts = [self.hear(window) for window in windows]
        return [Heard(text=text, num_tokens=len(text), ending=Ending.END) for text in texts]


def make_loaded(transcriber: ScriptedTranscriber, *, name: str = "scripted") -> LoadedTranscriber:
    """As if it had been loaded."""
    return LoadedTranscriber(
        transcriber=transcriber,
        name=name,
        digest=f"sha256:{name}",
        dtype="float32",
        device=torch.device("cpu"),
        prompt=None,
    )


def hear_pitch(samples: Samples) -> str:
    """The frequency of a tone, to 10 Hz, as a word; whole tones only."""
    spectrum = np.abs(np.fft.rfft(samples))
    return f"tone{round(int(np.argmax(spectrum)) * SAMPLE_RATE / len(samples) / 10) * 10}"
