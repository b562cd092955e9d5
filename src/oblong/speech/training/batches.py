"""Encoded utterances become batches: prompt, transcript, and the audio tokens that stand between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from oblong.corpora.speech import Utterance
from oblong.models.speech_lm import (
    SpeechLMProcessor,
    TrainingInputs,
    check_supervision,
    make_training_inputs,
    pad_training_inputs,
)
from oblong.models.speech_lm.frames import group_frames
from oblong.speech.training.processes import Processes


class Encoded(Protocol):
    """Utterances with what the frozen encoder made of them; see `oblong.speech.features`."""

    @property
    def utterances(self) -> Sequence[Utterance]:
        """Those that can be used."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> torch.Tensor:
        """Valid frames (T_i, D), bfloat16."""

    def num_frames(self, index: int) -> int:
        """T_i."""

    def seconds(self, index: int) -> float:
        """Of audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One utterance, its audio not yet in memory.

    Attributes:
        utterance: transcript and language.
        source, index: where its frames are.
        num_frames: T.
        seconds: of audio.
    """

    utterance: Utterance
    source: Encoded
    index: int
    num_frames: int
    seconds: float

    @property
    def frames(self) -> torch.Tensor:
        """Valid frames (T, D), bfloat16."""
        return self.source[self.index]


def list_clips(encoded: Encoded) -> list[Clip]:
    """The utterances of an encoded set, one by one."""
    return [
        Clip(
            utterance=utterance,
            source=encoded,
            index=index,
            num_frames=encoded.num_frames(index),
            seconds=encoded.seconds(index),
        )
        for index, utterance in enumerate(encoded.utterances)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechBatch:
    """B utterances, ready for the model: a batch, or a process's share of one.

    Attributes:
        input_ids, attention_mask, labels: (B, L), int64, padded on the right.
        frames: for each its audio (T_i, D), bfloat16.
        num_labels: positions that are learned in the whole batch: what losses are divided by.
        num_tokens: positions of the whole batch that are not padding.
        num_utterances: of the whole batch.
        weight: of the loss; 0 for what a process without a share computes to keep step with the others.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    frames: tuple[torch.Tensor, ...]
    num_labels: int
    num_tokens: int
    num_utterances: int
    weight: float = 1.0

    def to(self, device: torch.device) -> SpeechBatch:
        """The same on a device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            labels=self.labels.to(device),
            frames=tuple(frames.to(device) for frames in self.frames),
        )


class BatchMaker:
    """Writes batches: always with the language in the prompt, as `oblong speech evaluate` asks for it."""

    def __init__(self, processor: SpeechLMProcessor) -> None:
        self._processor = processor

    def make(self, clips: Sequence[Clip], *, heard: Sequence[Clip] | None = None) -> SpeechBatch:
        """A batch.

        Args:
            clips: whose transcripts are learned.
            heard: whose audio comes before them; default: their own.
        """
        audio = clips if heard is None else heard
        items = [self._write(clip, other) for clip, other in zip(clips, audio, strict=True)]
        padded = pad_training_inputs(items, self._processor)
        return SpeechBatch(
            input_ids=padded["input_ids"],
            attention_mask=padded["attention_mask"],
            labels=padded["labels"],
            frames=tuple(clip.frames for clip in audio),
            num_labels=sum(int((item.labels >= 0).sum()) for item in items),
            num_tokens=sum(len(item.input_ids) for item in items),
            num_utterances=len(items),
        )

    def make_share(self, clips: Sequence[Clip], processes: Processes) -> SpeechBatch:
        """This process's share of a batch; the shares' losses add up to the whole batch's.

        Args:
            clips: of the whole batch.
            processes: that divide it.
        """
        mine = clips[processes.rank :: processes.count]
        # The last batches of an epoch may have fewer utterances than there are processes.
        batch = self.make(mine or clips[:1])
        counts = (batch.num_labels, batch.num_tokens) if mine else (0, 0)
        num_labels, num_tokens = map(int, processes.add(*counts))
        return replace(
            batch,
            num_labels=num_labels,
            num_tokens=num_tokens,
            num_utterances=len(clips),
            weight=1.0 if mine else 0.0,
        )

    def count_tokens(self, clip: Clip) -> int:
        """Audio tokens of an utterance."""
        return group_frames(clip.num_frames, self._processor.downsampling)

    def check(self, clips: Sequence[Clip]) -> None:
        """Prove on a batch that transcripts and ends of turn are learned, and nothing else.

        Raises:
            VerificationError: they are not.
        """
        batch = self.make(clips)
        check_supervision(
            self._processor,
            {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels},
            texts=[clip.utterance.text for clip in clips],
            num_audio_tokens=[self.count_tokens(clip) for clip in clips],
        )

    def _write(self, clip: Clip, heard: Clip) -> TrainingInputs:
        return make_training_inputs(
            self._processor,
            num_audio_tokens=self.count_tokens(heard),
            text=clip.utterance.text,
            language=clip.utterance.lang,
        )
