"""The loss of a step of stage B: of the speech, and of what a method has to say about it or about old text.

Old text runs through the language model without audio, one block at a time. The terms of a step's loss are
differentiated one after the other, each let go before the next is computed: the peak memory is that of the largest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from oblong.methods.protocol import Method, Training
from oblong.methods.replay import ExperienceReplay
from oblong.methods.token_losses import compute_token_losses, select_predicted
from oblong.speech.training.batches import SpeechBatch
from oblong.speech.training.forward import SpeechForward
from oblong.speech.training.processes import Processes
from oblong.speech.training.spelling import Speller
from oblong.speech.training.transcripts import TranscriptOutput, make_method_batch, take_labels


class Objective(Protocol):
    """What a step minimises."""

    def __call__(self, batch: SpeechBatch, step: int) -> Iterator[Tensor]:
        """The terms of the loss: this process's part of them.

        Args:
            batch: a process's share of the step's utterances, on the model's device.
            step: steps of the stage before this one.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechObjective:
    """A model's own loss of a batch: of the transcripts' tokens, or of their spelling."""

    forward: SpeechForward | Speller

    def __call__(self, batch: SpeechBatch, step: int) -> Iterator[Tensor]:
        """One term."""
        yield self.forward(batch).loss * batch.weight


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptObjective:
    """The mean cross-entropy of the transcripts, with a method that acts on their tokens.

    Attributes:
        method: prepared with the training.
        training: of the model that predicts transcripts.
    """

    method: Method
    training: Training

    def __call__(self, batch: SpeechBatch, step: int) -> Iterator[Tensor]:
        """One term."""
        (changed,) = self.method.extend_batches([make_method_batch(batch)])
        speech = take_labels(batch, changed["labels"])
        output: TranscriptOutput = self.training.model(speech)
        extra = self.method.compute_extra_loss(make_method_batch(speech), output.logits, speech.num_labels)
        yield (output.loss if extra is None else output.loss + extra) * batch.weight


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonObjective:
    """The mean cross-entropy of the transcripts, and a method's comparison with the base on old text.

    Attributes:
        forward: runs the speech LLM.
        method: prepared with the language model alone.
        training: the language model and its old text.
        num_blocks: of old text per step.
        processes: that divide them.
    """

    forward: SpeechForward
    method: Method
    training: Training
    num_blocks: int
    processes: Processes

    def __call__(self, batch: SpeechBatch, step: int) -> Iterator[Tensor]:
        """One term, and one for each block of old text."""
        yield self.forward(batch).loss * batch.weight
        blocks_NT = self.training.old_data.draw(self.num_blocks, seed=self.training.seed, step=step + 1)
        for block_1T, weight in deal_blocks(blocks_NT, self.processes):
            labels_1T = block_1T.to(self.training.device)
            old = {"input_ids": labels_1T, "labels": labels_1T}
            logits = read_block(self.training, labels_1T)
            extra = self.method.compute_extra_loss(old, logits, count_predicted(blocks_NT))
            if extra is not None:
                yield extra * weight


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayObjective:
    """The mean cross-entropy of transcripts and old text together, each token weighing the same.

    Attributes:
        forward: runs the speech LLM.
        method: tells how much old text goes with how many utterances.
        training: the language model and its old text.
        processes: that divide them.
    """

    forward: SpeechForward
    method: ExperienceReplay
    training: Training
    processes: Processes

    def __call__(self, batch: SpeechBatch, step: int) -> Iterator[Tensor]:
        """One term, and one for each block of old text."""
        # Of the whole batch in every process, so that all count and draw the same.
        (blocks_NT,) = self.method.draw_blocks([batch.num_utterances])
        num_items = batch.num_labels + count_predicted(blocks_NT)
        yield self.forward(batch, num_labels=num_items).loss * batch.weight
        for block_1T, weight in deal_blocks(blocks_NT, self.processes):
            labels_1T = block_1T.to(self.training.device)
            losses_N = compute_token_losses(*select_predicted(read_block(self.training, labels_1T), labels_1T))
            yield losses_N.sum() / num_items * weight


def read_block(training: Training, block_1T: Tensor) -> Tensor:
    """The language model's logits of a block of text, without audio: 1 x sequence_length x vocabulary."""
    with training.autocast():
        logits: Tensor = training.model(input_ids=block_1T).logits
    return logits


def count_predicted(blocks_NT: Tensor) -> int:
    """Tokens of blocks that are predicted: all but each one's first."""
    return len(blocks_NT) * max(0, blocks_NT.shape[1] - 1)


def deal_blocks(blocks_NT: Tensor, processes: Processes) -> Iterator[tuple[Tensor, float]]:
    """This process's blocks, each 1 x sequence_length with its weight in the loss.

    All processes get the same number, as a sharded model must be called equally often; a block that another one has as
    well weighs nothing.
    """
    for turn, (place, block_1T) in enumerate(processes.deal(list(blocks_NT[:, None]))):
        is_own = place == turn * processes.count + processes.rank
        yield block_1T, 1.0 if is_own else 0.0
