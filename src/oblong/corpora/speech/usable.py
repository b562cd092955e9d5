"""Which utterances can be used: they are decoded one by one, and what is left out is counted, with its reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

import numpy as np

from oblong.corpora.speech.audio import SAMPLE_RATE, Samples, load_audio
from oblong.corpora.speech.utterance import Utterance
from oblong.errors import AudioError, DataError

NUM_EXAMPLES: Final = 3
SILENCE_PEAK: Final = 1e-4  # -80 dB of full scale; a 16-bit file that only dithers stays below


@dataclass(slots=True)
class SkipReport:
    """What was left out, and why; it grows while a manifest is read.

    Attributes:
        counts: utterances per kind of reason.
        examples: for each kind, the first few messages; each names its file.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Utterances left out."""
        return self.counts.total()

    def add(self, kind: str, message: str) -> None:
        """Count one more."""
        self.counts[kind] += 1
        if len(known := self.examples.setdefault(kind, [])) < NUM_EXAMPLES:
            known.append(message)

    def describe(self) -> str:
        """`3 skipped: 2 missing, 1 corrupt (a.wav: no such file; ...)`; the empty string where there are none."""
        if not self.total:
            return ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.counts.most_common())
        shown = "; ".join(self.examples[kind][0] for kind, _ in self.counts.most_common())
        return f"{self.total} skipped: {kinds} ({shown})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """What decides whether a recording can be used, without its samples.

    Attributes:
        num_samples: at 16 kHz.
        peak: the largest absolute sample; full scale is 1.
    """

    num_samples: int
    peak: float

    @classmethod
    def of(cls, samples: Samples) -> Self:
        """Measure (num_samples,) float32."""
        return cls(num_samples=samples.size, peak=float(np.abs(samples).max()))

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.num_samples / SAMPLE_RATE


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioLimits:
    """What an utterance must be.

    Attributes:
        min_seconds: shorter ones are skipped.
        max_seconds: longer ones are skipped; None keeps all.
        keep_empty_text: keep utterances in which nothing is said, to test for invented words or to train on silence.
    """

    min_seconds: float = 0.1
    max_seconds: float | None = None
    keep_empty_text: bool = False


def iter_audio(
    utterances: Iterable[Utterance], skips: SkipReport, limits: AudioLimits | None = None
) -> Iterator[tuple[Utterance, Samples]]:
    """Decode utterances one after the other; those that cannot be used are counted in `skips`, not yielded.

    Yields:
        The utterance with its measured duration, and (num_samples,) float32 at 16 kHz.
    """
    limits = limits or AudioLimits()
    for utterance in utterances:
        try:
            samples = load_usable(utterance, limits)
        except AudioError as error:
            skips.add(error.kind, str(error))
            continue
        yield replace(utterance, duration=samples.size / SAMPLE_RATE), samples


def load_usable(utterance: Utterance, limits: AudioLimits) -> Samples:
    """Decode one utterance.

    Raises:
        AudioError: it cannot be decoded, has no transcript, is too short, too long, or silent though something is said.
    """
    check_transcript(utterance, limits)
    samples = load_audio(utterance.audio)
    check_sound(utterance, Sound.of(samples), limits)
    return samples


def check_transcript(utterance: Utterance, limits: AudioLimits) -> None:
    """Refuse an utterance without a transcript, where there must be one.

    Raises:
        AudioError: there is none.
    """
    if not utterance.text.strip() and not limits.keep_empty_text:
        raise AudioError(utterance.audio, "has an empty transcript", kind="empty transcript")


def check_sound(utterance: Utterance, sound: Sound, limits: AudioLimits) -> None:
    """Refuse an utterance whose sound does not fit the limits or the transcript.

    Raises:
        AudioError: too short, too long, or silent though something is said.
    """
    seconds = sound.seconds
    if seconds < limits.min_seconds:
        raise AudioError(utterance.audio, f"lasts only {seconds:.2f} s", kind="too short")
    if limits.max_seconds is not None and seconds > limits.max_seconds:
        raise AudioError(utterance.audio, f"lasts {seconds:.1f} s, more than {limits.max_seconds:g} s", kind="too long")
    if utterance.text.strip() and sound.peak < SILENCE_PEAK:
        raise AudioError(utterance.audio, "is silent but has a transcript", kind="silent")


def select_usable(
    utterances: Sequence[Utterance],
    limits: AudioLimits | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Utterance], SkipReport]:
    """Decode every utterance once: those that can be used, with their durations, and what was left out.

    Args:
        utterances: of a manifest.
        limits: what they must be.
        on_progress: called with what is kept or skipped so far, and the total.

    Raises:
        DataError: not one can be used; the message says why.
    """
    skips = SkipReport()
    kept: list[Utterance] = []
    for utterance, _ in iter_audio(utterances, skips, limits):
        kept.append(utterance)
        if on_progress is not None:
            on_progress(len(kept) + skips.total, len(utterances))
    if not kept:
        raise DataError(f"none of {len(utterances)} utterances can be used: {skips.describe() or 'there are none'}")
    return kept, skips
