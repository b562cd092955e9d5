"""The SpeechEvaluation: what a model heard, utterance by utterance, and how much of it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field

from oblong.records.base import Part, Provenance, Record, check_kind
from oblong.records.interval import Interval

SPEECH_EVALUATION_KIND: Final = "oblong.speech_evaluation"
SPEECH_EVALUATION_SCHEMA_VERSION: Final = 1


class Ending(StrEnum):
    """How the decoding of a window of audio ended."""

    END = "end"  # the model said so
    LOOP = "loop"  # it repeated itself; stopped, and cut after the first repeat
    LIMIT = "limit"  # more tokens than speech of this duration has; the text is cut off
    SILENT = "silent"  # no frame is louder than the gate; not decoded, the text is empty
    TOO_SHORT = "too_short"  # less sound than any word; not decoded, the text is empty


class ErrorCounts(Part):
    """A minimum edit alignment, in words or characters."""

    hits: int = Field(default=0, ge=0)
    substitutions: int = Field(default=0, ge=0)
    deletions: int = Field(default=0, ge=0)
    insertions: int = Field(default=0, ge=0)

    @property
    def errors(self) -> int:
        """S + D + I."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def num_reference(self) -> int:
        """Words or characters of the reference: H + S + D."""
        return self.hits + self.substitutions + self.deletions

    @property
    def num_hypothesis(self) -> int:
        """Words or characters of the hypothesis: H + S + I."""
        return self.hits + self.substitutions + self.insertions

    @property
    def rate(self) -> float | None:
        """(S + D + I) / (H + S + D); may exceed 1; null where the reference is empty."""
        return self.errors / self.num_reference if self.num_reference else None

    def __add__(self, other: Self) -> ErrorCounts:
        return ErrorCounts(
            hits=self.hits + other.hits,
            substitutions=self.substitutions + other.substitutions,
            deletions=self.deletions + other.deletions,
            insertions=self.insertions + other.insertions,
        )


class UtteranceErrors(Part):
    """One utterance, counted four ways; `raw` is as written, otherwise the language's normaliser was applied."""

    words: ErrorCounts
    words_raw: ErrorCounts
    characters: ErrorCounts
    characters_raw: ErrorCounts
    loop: bool = Field(description="the hypothesis repeats itself and the reference does not")


class GroupScores(Part):
    """Utterances of one language, or all of them. Rates are totals of errors over totals of reference words."""

    num_utterances: int
    words: ErrorCounts
    words_raw: ErrorCounts
    characters: ErrorCounts
    characters_raw: ErrorCounts
    word_interval: Interval | None = Field(description="of the normalised WER, over utterances; null if too few")
    word_raw_interval: Interval | None
    character_interval: Interval | None
    character_raw_interval: Interval | None
    num_empty_references: int = Field(description="utterances with nothing to recognise, after normalising")
    num_invented: int = Field(description="of these, those with a hypothesis nevertheless")
    num_empty_hypotheses: int = Field(description="something was said and nothing recognised")
    num_loops: int

    @property
    def wer(self) -> float | None:
        """Word error rate after normalising."""
        return self.words.rate

    @property
    def wer_raw(self) -> float | None:
        """Word error rate as written: case and punctuation count."""
        return self.words_raw.rate

    @property
    def cer(self) -> float | None:
        """Character error rate after normalising; the spaces between words count as characters."""
        return self.characters.rate

    @property
    def cer_raw(self) -> float | None:
        """Character error rate as written."""
        return self.characters_raw.rate

    @property
    def empty_rate(self) -> float | None:
        """Share of the utterances with a reference that were answered with nothing."""
        num_spoken = self.num_utterances - self.num_empty_references
        return self.num_empty_hypotheses / num_spoken if num_spoken else None

    @property
    def loop_rate(self) -> float:
        """Share of the utterances whose hypothesis repeats itself."""
        return self.num_loops / self.num_utterances

    @property
    def length_ratio(self) -> float | None:
        """Words of the hypotheses over words of the references, normalised: below 1 words are left out."""
        return self.words.num_hypothesis / self.words.num_reference if self.words.num_reference else None


class NormaliserInfo(Part):
    """What was done to a language's texts before counting."""

    name: str
    version: str


class TranscriptScores(Part):
    """Transcripts against their references."""

    corpus: GroupScores
    languages: Mapping[str, GroupScores]
    normalisers: Mapping[str, NormaliserInfo] = Field(description="by language")
    scorer: str = Field(description="what aligned the texts, with its version")

    @property
    def macro_wer(self) -> float | None:
        """Mean of the languages' WERs, each language counting alike; null if one of them has no reference."""
        rates = [scores.wer for scores in self.languages.values()]
        known = [rate for rate in rates if rate is not None]
        return sum(known) / len(known) if known and len(known) == len(rates) else None


class Transcript(Part):
    """One utterance and what the model made of it."""

    audio: str = Field(description="as the manifest names it")
    lang: str
    speaker: str
    source: str
    seconds: float = Field(ge=0, description="of audio")
    reference: str
    hypothesis: str
    errors: UtteranceErrors
    endings: tuple[Ending, ...] = Field(description="one per window of the audio")


class SkippedAudio(Part):
    """An utterance that was not scored."""

    audio: str
    reason: str


class SpeechSet(Part):
    """One manifest."""

    manifest: str
    digest: str = Field(description="SHA-256 of the manifest file's bytes")
    transcripts: tuple[Transcript, ...]
    skipped: tuple[SkippedAudio, ...]
    scores: TranscriptScores
    audio_seconds: float
    decoding_seconds: float = Field(description="from samples to text, without reading files")
    against_baseline: Interval | None = Field(
        default=None, description="WER - the baseline's, normalised, paired over utterances"
    )

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of decoding per second of audio; null where there is no audio."""
        return self.decoding_seconds / self.audio_seconds if self.audio_seconds else None


class SpeechSettings(Part):
    """How it was decoded."""

    batch_size: int
    num_beams: int
    window_seconds: float
    base_tokens: int
    tokens_per_second: float
    dtype: str
    device: str
    threads: int
    prompt: str | None


class SpeechEvaluation(Record):
    """One model on several manifests."""

    kind: Annotated[str, AfterValidator(check_kind(SPEECH_EVALUATION_KIND))] = SPEECH_EVALUATION_KIND
    schema_version: int = Field(default=SPEECH_EVALUATION_SCHEMA_VERSION, le=SPEECH_EVALUATION_SCHEMA_VERSION)
    model: str
    model_digest: str = Field(description="SHA-256 over the model's weight and configuration files")
    settings: SpeechSettings
    sets: Mapping[str, SpeechSet]
    baseline: SpeechEvaluation | None = None
    provenance: Provenance
