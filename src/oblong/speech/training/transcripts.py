"""A speech batch as methods know batches: the transcripts' tokens and their logits, what comes before them left out.

A method looks at predicted tokens alone, and a prompt with audio is many times longer than its transcript. So a row has
as many columns as its utterance has labels, and one before them: position k predicts label k + 1, as in text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from oblong.methods.protocol import Batch
from oblong.methods.token_losses import IGNORED_LABEL
from oblong.speech.training.batches import SpeechBatch
from oblong.speech.training.forward import SpeechForward


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptOutput:
    """What the model says of transcripts.

    Attributes:
        loss: as `SpeechForward` computes it.
        logits: (B, N + 1, V), N the labels of the longest transcript; zeros behind shorter ones.
    """

    loss: Tensor
    logits: Tensor


class TranscriptModel(nn.Module):
    """A speech LLM that is called with `make_method_batch(batch)`, as a method calls a language model.

    Args:
        forward: runs the speech LLM.
    """

    def __init__(self, forward: SpeechForward) -> None:
        super().__init__()
        self.speech = forward

    @property
    def config(self) -> Any:
        """The speech LLM's."""
        return self.speech.model.config

    def forward(self, speech: SpeechBatch) -> TranscriptOutput:
        """Loss, and the logits of transcripts in rows."""
        output = self.speech(speech)
        return TranscriptOutput(loss=output.loss, logits=spread_rows(output.logits, speech.labels))


def make_method_batch(speech: SpeechBatch) -> Batch:
    """The batch that a method sees: `labels`, (B, N + 1) with -100 before and behind, and the batch itself."""
    counts_B = (speech.labels != IGNORED_LABEL).sum(1)
    labels_BT = speech.labels.new_full((len(counts_B), int(counts_B.max()) + 1), IGNORED_LABEL)
    labels_BT[mask_places(counts_B, labels_BT.shape[1], first=1)] = speech.labels[speech.labels != IGNORED_LABEL]
    return {"labels": labels_BT, "speech": speech}


def take_labels(speech: SpeechBatch, labels_BT: Tensor) -> SpeechBatch:
    """The speech batch without the labels that a method has taken out of its own.

    Args:
        speech: one whole batch, not a process's share.
        labels_BT: of `make_method_batch(speech)`, some of them now -100.
    """
    before_BT = make_method_batch(speech)["labels"]
    if torch.equal(before_BT, labels_BT):
        return speech
    labels = speech.labels.clone()
    labels[labels != IGNORED_LABEL] = labels_BT[before_BT != IGNORED_LABEL]
    return replace(speech, labels=labels, num_labels=int((labels != IGNORED_LABEL).sum()))


def spread_rows(logits_NV: Tensor, labels_BL: Tensor) -> Tensor:
    """Logits of all labels, row after row, as (B, N + 1, V)."""
    counts_B = (labels_BL != IGNORED_LABEL).sum(1)
    shape = (len(counts_B), int(counts_B.max()) + 1, logits_NV.shape[-1])
    places_BT = mask_places(counts_B, shape[1], first=0)
    return logits_NV.new_zeros(shape).index_put(places_BT.nonzero(as_tuple=True), logits_NV)


def mask_places(counts_B: Tensor, length: int, *, first: int) -> Tensor:
    """Where in each row so many entries lie, from column `first` on: (B, length), bool."""
    columns_T = torch.arange(length, device=counts_B.device)
    return (columns_T >= first) & (columns_T < counts_B[:, None] + first)
