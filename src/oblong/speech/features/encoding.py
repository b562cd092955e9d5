"""Utterances to features: what the cache has is taken from there, the rest is encoded, one recording at a time."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch

from oblong.corpora.speech import (
    SAMPLE_RATE,
    AudioLimits,
    SkipReport,
    Sound,
    Utterance,
    check_sound,
    check_transcript,
    decode_audio,
    read_sound_file,
)
from oblong.corpora.speech.audio import Samples
from oblong.errors import AudioError, DataError
from oblong.models.speech_lm import SpeechLMForConditionalGeneration, SpeechLMProcessor
from oblong.models.speech_lm.frames import count_window_samples
from oblong.records import SkippedAudio
from oblong.speech.features.cache import EncoderFeatures, FeatureCache
from oblong.speech.features.identity import check_frozen, describe_encoder

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingCost:
    """What making the features took.

    Attributes:
        num_cached: recordings whose features were there.
        num_encoded: recordings that the encoder ran on.
        num_damaged: features that were there, but not whole; they were computed again.
        seconds: in all.
    """

    num_cached: int
    num_encoded: int
    num_damaged: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedUtterances:
    """Utterances that can be used, with what the encoder says about them.

    Attributes:
        utterances: in the order of the manifest, with measured durations.
        keys: for each what its recording is, to the byte.
        features: (T_i, D) bfloat16 on the CPU for each, cropped to valid frames; from the cache they are mapped into
            memory, and what is written into them does not reach the cache.
        skipped: utterances that cannot be used, with the reasons.
        skips: the same, counted by kind.
        cost: what it took.
    """

    utterances: tuple[Utterance, ...]
    keys: tuple[str, ...]
    features: tuple[torch.Tensor, ...]
    skipped: tuple[SkippedAudio, ...]
    skips: SkipReport
    cost: EncodingCost

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> torch.Tensor:
        """(T_i, D) bfloat16."""
        return self.features[index]

    def num_frames(self, index: int) -> int:
        """Valid encoder frames of an utterance, T_i."""
        return len(self.features[index])

    def seconds(self, index: int) -> float:
        """Duration of an utterance."""
        duration = self.utterances[index].duration
        assert duration is not None  # measured
        return duration


def encode_utterances(
    model: SpeechLMForConditionalGeneration,
    processor: SpeechLMProcessor,
    utterances: Sequence[Utterance],
    *,
    cache: FeatureCache | None,
    limits: AudioLimits | None = None,
    on_progress: OnProgress | None = None,
) -> EncodedUtterances:
    """Encode utterances, or take their features from the cache; both give the same bits (design/053).

    Features are kept one by one: a call that was killed goes on where it stopped.

    Args:
        model: its encoder is frozen and does the work, where it lies.
        processor: the model's.
        utterances: of a manifest.
        cache: None keeps the features in memory.
        limits: what the utterances must be; none may be longer than the encoder's window.
        on_progress: called with what is done or skipped so far, and the total.

    Raises:
        SpeechModelError: the encoder trains.
        DataError: not one utterance can be used; the message says why.
        OutputWriteError: the cache cannot be written; what is encoded stays.
    """
    started = time.perf_counter()
    check_frozen(model)
    kept = None if cache is None else cache.open_encoder(describe_encoder(model, processor))
    encoder = _UtteranceEncoder(model, processor, kept, _narrow(limits or AudioLimits(), model))
    done: list[tuple[Utterance, str]] = []
    skipped: list[SkippedAudio] = []
    skips = SkipReport()
    with closing(encoder):
        for number, utterance in enumerate(utterances, 1):
            try:
                done.append(encoder.encode(utterance))
            except AudioError as error:
                skips.add(error.kind, str(error))
                skipped.append(SkippedAudio(audio=str(utterance.audio), reason=error.reason))
            if on_progress is not None:
                on_progress(number, len(utterances))
    if not done:
        raise DataError(f"none of {len(utterances)} utterances can be used: {skips.describe() or 'there are none'}")
    return EncodedUtterances(
        utterances=tuple(utterance for utterance, _ in done),
        keys=tuple(key for _, key in done),
        features=tuple(encoder.get_features(key) for _, key in done),
        skipped=tuple(skipped),
        skips=skips,
        cost=encoder.summarise(time.perf_counter() - started),
    )


class _UtteranceEncoder:
    """One utterance after the other, each recording once."""

    def __init__(self, model: Any, processor: Any, kept: EncoderFeatures | None, limits: AudioLimits) -> None:
        self._model = model
        self._processor = processor
        self._kept = kept
        self._limits = limits
        self._sounds: dict[str, Sound] = {}
        self._in_memory: dict[str, torch.Tensor] = {}
        self._counts: Counter[str] = Counter()

    def encode(self, utterance: Utterance) -> tuple[Utterance, str]:
        """The utterance with its measured duration, and the key of its features.

        Raises:
            AudioError: it cannot be used.
        """
        check_transcript(utterance, self._limits)
        data = read_sound_file(utterance.audio)
        key = make_key(data, utterance)
        sound = self._sounds.get(key) or self._find(key) or self._compute(key, data, utterance)
        self._sounds[key] = sound
        check_sound(utterance, sound, self._limits)
        return replace(utterance, duration=sound.seconds), key

    def get_features(self, key: str) -> torch.Tensor:
        """(T, D) bfloat16 of a recording that was encoded."""
        if self._kept is None:
            return self._in_memory[key]
        return torch.from_numpy(self._kept.map(key)).view(torch.bfloat16)

    def summarise(self, seconds: float) -> EncodingCost:
        """What it took so far."""
        return EncodingCost(
            num_cached=self._counts["cached"],
            num_encoded=self._counts["encoded"],
            num_damaged=0 if self._kept is None else self._kept.num_damaged,
            seconds=seconds,
        )

    def close(self) -> None:
        """End writing to the cache."""
        if self._kept is not None:
            self._kept.close()

    def _find(self, key: str) -> Sound | None:
        sound = None if self._kept is None else self._kept.find(key)
        self._counts["cached"] += sound is not None
        return sound

    def _compute(self, key: str, data: bytes, utterance: Utterance) -> Sound:
        samples = decode_audio(data, utterance.audio)
        sound = Sound.of(samples)
        check_sound(utterance, sound, self._limits)
        features = compute_features(self._model, self._processor, samples)
        if not bool(features.isfinite().all()):
            raise AudioError(utterance.audio, "makes the encoder say NaN or infinity", kind="not finite")
        self._counts["encoded"] += 1
        if self._kept is None:
            self._in_memory[key] = features
        else:
            self._kept.add(key, features.view(torch.int16).numpy(), sound)
        return sound


@torch.no_grad()
def compute_features(model: Any, processor: Any, samples: Samples) -> torch.Tensor:
    """Encode one recording alone, so that its features do not depend on its neighbours in a batch.

    Args:
        model: a speech LLM.
        processor: the model's.
        samples: (num_samples,) float32 at 16 kHz, not longer than the encoder's window.

    Returns:
        (T, D) bfloat16 on the CPU.
    """
    tower = model.model.audio_tower
    inputs = processor.feature_extractor(
        samples, sampling_rate=SAMPLE_RATE, return_attention_mask=True, return_tensors="pt"
    )
    spectrogram = inputs["input_features"].to(device=tower.device, dtype=tower.dtype)
    frames = model.encode_audio(spectrogram, inputs["attention_mask"]).frames[0]
    # A copy: a view would keep the whole window in memory.
    features: torch.Tensor = frames.to(device="cpu", dtype=torch.bfloat16, copy=True)
    return features


def make_key(data: bytes, utterance: Utterance) -> str:
    """SHA-256 in hexadecimal of a sound file's bytes, and of its suffix, which tells formats without a header."""
    return hashlib.sha256(utterance.audio.suffix.lower().encode() + b"\n" + data).hexdigest()


def _narrow(limits: AudioLimits, model: SpeechLMForConditionalGeneration) -> AudioLimits:
    window_seconds = count_window_samples(model.config.audio_config.max_source_positions) / SAMPLE_RATE
    most = window_seconds if limits.max_seconds is None else min(limits.max_seconds, window_seconds)
    return replace(limits, max_seconds=most)
