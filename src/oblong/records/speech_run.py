"""The SpeechRun: how a language model learned to hear, and what its text was worth meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from oblong.records.base import Part, Provenance, Record, check_kind
from oblong.records.interval import Interval
from oblong.records.run import TrainingPoint
from oblong.records.speech_evaluation import ErrorCounts, SkippedAudio

SPEECH_RUN_KIND: Final = "oblong.speech_run"
SPEECH_RUN_SCHEMA_VERSION: Final = 1


class SpeechStage(StrEnum):
    """What trains."""

    SPELL = "spell"  # before stage A: the adaptor alone, without the language model
    ALIGN = "align"  # stage A: the adaptor alone
    ADAPT = "adapt"  # stage B: the arm's tensors, and the adaptor


class SpeechRunStatus(StrEnum):
    """How a run ended."""

    RUNNING = "running"  # not yet: the record is rewritten at every evaluation
    COMPLETED = "completed"  # all steps
    TARGET = "target"  # the word error rate that was asked for
    PATIENCE = "patience"  # no better word error rate for long enough
    FORGETTING = "forgetting"  # text became worse than was allowed; the best checkpoint is within that budget
    NOT_ALIGNED = "not_aligned"  # the adaptor never made itself understood; stage B did not start
    DIVERGED = "diverged"  # a loss or gradient was not finite; the weights are those before it


class SpeechData(Part):
    """One manifest as it was used."""

    manifest: str
    digest: str = Field(description="SHA-256 of the manifest file's bytes")
    num_utterances: int = Field(description="that were used, after limits and skips")
    num_limited: int = Field(default=0, description="left out because the recipe limits the set")
    seconds: float = Field(description="of audio that were used")
    skipped: tuple[SkippedAudio, ...] = Field(default=(), description="audio that could not be used")


class WordErrors(Part):
    """A test set at one evaluation, normalised as the language's convention says."""

    words: ErrorCounts
    interval: Interval | None = Field(description="of the WER, bootstrap over utterances; null if too few")
    num_utterances: int
    num_empty: int = Field(description="something was said and nothing recognised")
    num_loops: int = Field(description="the hypothesis repeats itself and the reference does not")

    @property
    def wer(self) -> float | None:
        """Word error rate; may exceed 1; null where nothing is said."""
        return self.words.rate

    @property
    def empty_rate(self) -> float:
        """Share of utterances that were answered with nothing."""
        return self.num_empty / self.num_utterances

    @property
    def loop_rate(self) -> float:
        """Share of utterances whose hypothesis repeats itself."""
        return self.num_loops / self.num_utterances


class TextRetention(Part):
    """One text at one evaluation."""

    loss: float = Field(description="nats per token")
    ratio: float = Field(description="perplexity over that of the untouched language model; above 1 is forgetting")


class AlignmentProbe(Part):
    """Does the language model listen? Held-out utterances with their own audio, and with another's of like length."""

    num_utterances: int
    loss: float | None = Field(description="with true audio, nats per token; null if not finite")
    token_accuracy: float = Field(description="teacher-forced, with true audio, 0 to 1")
    shuffled_accuracy: float = Field(description="the same with another utterance's audio")
    pairwise_cosine: float = Field(description="mean over pairs of audio tokens; near 1 they have collapsed")
    rms_ratio: float = Field(description="root mean square of audio tokens over that of text embeddings")

    @property
    def gap(self) -> float:
        """True minus shuffled accuracy: 0 where the audio says nothing."""
        return self.token_accuracy - self.shuffled_accuracy


class SpeechPoint(Part):
    """One evaluation."""

    stage: SpeechStage
    step: int = Field(description="optimizer steps of the stage that are done")
    seconds: float = Field(description="of training since the stage began, evaluations excluded")
    num_utterances: int = Field(description="trained on since the stage began, with repetition")
    loss: float | None = Field(description="mean training loss since the last point, nats per token; null at step 0")
    alignment: AlignmentProbe
    wer: Mapping[str, WordErrors] = Field(description="by name of the test set")
    retention: Mapping[str, TextRetention] = Field(description="by name of the text")
    spelling: Mapping[str, WordErrors] = Field(
        default={}, description="while it learns to spell: what the adaptor alone makes of a test set"
    )

    @property
    def alignment_gap(self) -> float:
        """Accuracy with true minus with shuffled audio."""
        return self.alignment.gap

    @property
    def token_accuracy(self) -> float:
        """Teacher-forced, with true audio."""
        return self.alignment.token_accuracy

    @property
    def macro_wer(self) -> float | None:
        """Mean over test sets, each counting alike; null where there is none."""
        rates = [errors.wer for errors in self.wer.values() if errors.wer is not None]
        return sum(rates) / len(rates) if rates else None

    @property
    def worst_retention(self) -> float | None:
        """The largest ratio of perplexity over the texts; null where there is none."""
        return max((text.ratio for text in self.retention.values()), default=None)


class StageRecord(Part):
    """One stage of training."""

    stage: SpeechStage
    num_steps: int
    num_utterances: int = Field(description="trained on, with repetition")
    num_tokens: int = Field(description="positions that the language model read, padding excluded")
    seconds: float = Field(description="training alone, evaluations excluded")
    num_trainable: int = Field(description="parameters, the adaptor's included")
    aligned_at: int | None = Field(default=None, description="step at which the alignment gate opened")
    history: tuple[TrainingPoint, ...] = Field(description="the loss curve; learning rate of the stage's first group")


class BestCheckpoint(Part):
    """The evaluation with the lowest macro-averaged WER within the retention budget."""

    stage: SpeechStage
    step: int
    wer: float
    retention: float | None = Field(description="largest ratio of perplexity over the texts")
    directory: str = Field(description="relative to this file")


class ArmInfo(Part):
    """What trains in the language model."""

    kind: str = Field(description="plan, adaptor_only or lora")
    description: str
    num_trainable: int = Field(description="parameters of the language model, LoRA's included, the adaptor's not")


class SpeechRun(Record):
    """One training of a speech LLM."""

    kind: Annotated[str, AfterValidator(check_kind(SPEECH_RUN_KIND))] = SPEECH_RUN_KIND
    schema_version: int = Field(default=SPEECH_RUN_SCHEMA_VERSION, le=SPEECH_RUN_SCHEMA_VERSION)
    name: str
    encoder: str
    language_model: str
    arm: ArmInfo
    recipe: Mapping[str, Any] = Field(description="as resolved")
    seed: int
    status: SpeechRunStatus
    reason: str = Field(description="why it ended, in a sentence")
    num_adaptor: int = Field(description="parameters of the adaptor")
    num_parameters: int = Field(description="of encoder, adaptor and language model; a tied tensor counts once")
    train: tuple[SpeechData, ...]
    evaluate: Mapping[str, SpeechData]
    base_retention: Mapping[str, float] = Field(description="of the untouched language model, nats per token")
    stages: tuple[StageRecord, ...]
    points: tuple[SpeechPoint, ...]
    best: BestCheckpoint | None = Field(description="null where no evaluation was within the retention budget")
    peak_memory_bytes: int = Field(description="peak resident memory of the process; on a GPU, of its allocator")
    provenance: Provenance
