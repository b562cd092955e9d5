"""Does the language model listen? The probe that ends stage A.

A language model predicts much of a transcript from its beginning alone: a token accuracy of 45 % can mean that it hears
nothing (SLAM-LLM's issue 113). What tells is the accuracy lost when every utterance gets the audio of another one of
like length. Beside it the probe looks at the audio tokens themselves: when they all point the same way (cosine near 1)
or are far larger than text embeddings, the adaptor has collapsed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from oblong.errors import DataError
from oblong.models.speech_lm.modeling import IGNORED
from oblong.records import AlignmentProbe
from oblong.speech.training.batches import BatchMaker, Clip, SpeechBatch
from oblong.speech.training.forward import SpeechForward
from oblong.speech.training.processes import ALONE, Processes


@dataclass(slots=True)
class _Tally:
    """Sums over the utterances of a batch, or over batches."""

    loss: float = 0.0
    correct: int = 0
    shuffled: int = 0
    num_labels: int = 0
    cosines: list[float] = field(default_factory=list)
    audio_power: list[float] = field(default_factory=list)
    text_power: list[float] = field(default_factory=list)

    def add(self, other: _Tally) -> None:
        """Add another batch's."""
        self.loss += other.loss
        self.correct += other.correct
        self.shuffled += other.shuffled
        self.num_labels += other.num_labels
        self.cosines += other.cosines
        self.audio_power += other.audio_power
        self.text_power += other.text_power


@torch.no_grad()
def probe_alignment(
    forward: SpeechForward,
    maker: BatchMaker,
    clips: Sequence[Clip],
    *,
    batch_size: int,
    device: torch.device,
    processes: Processes = ALONE,
) -> AlignmentProbe:
    """Compare true with shuffled audio, teacher-forced.

    Args:
        forward: the model.
        maker: writes the batches.
        clips: held-out utterances, at least two.
        batch_size: utterances at a time; audio is exchanged within a batch, among neighbours in length.
        device: of the model.
        processes: that divide the batches among them; each gets the whole result.
    """
    groups = list(group_by_length(clips, batch_size))
    mine = {place: _probe_group(forward, maker, group, device) for place, group in processes.deal(groups)}
    tally = _Tally()
    for other in processes.collect(mine):
        tally.add(other)
    loss = tally.loss / tally.num_labels
    return AlignmentProbe(
        num_utterances=len(clips),
        loss=loss if math.isfinite(loss) else None,
        token_accuracy=tally.correct / tally.num_labels,
        shuffled_accuracy=tally.shuffled / tally.num_labels,
        pairwise_cosine=_mean(tally.cosines),
        rms_ratio=math.sqrt(_mean(tally.audio_power) / max(_mean(tally.text_power), 1e-30)),
    )


def _probe_group(forward: SpeechForward, maker: BatchMaker, group: Sequence[Clip], device: torch.device) -> _Tally:
    true = maker.make(group).to(device)
    # Rolled by one: nobody keeps their own.
    shuffled = maker.make(group, heard=[*group[1:], group[0]]).to(device)
    output = forward(true)
    tally = _Tally(
        loss=float(output.loss) * true.num_labels,
        correct=_count_correct(output.logits, true),
        shuffled=_count_correct(forward(shuffled).logits, shuffled),
        num_labels=true.num_labels,
    )
    _look_at_tokens(tally, output.audio_hidden_states, forward, true)
    return tally


def choose_probe_clips(sets: Sequence[Sequence[Clip]], num_clips: int) -> list[Clip]:
    """The same number from each test set, spread over it evenly."""
    share = max(2, num_clips // len(sets))
    return [clip for clips in sets for clip in clips[:: max(1, len(clips) // share)][:share]]


def group_by_length(clips: Sequence[Clip], size: int) -> Iterator[list[Clip]]:
    """Neighbours in length and of one language, at least two in a group unless a language has only one.

    Args:
        clips: to group.
        size: of a group, at most, but for a third where two and one would be left.
    """
    ranked = sorted(clips, key=lambda clip: (clip.utterance.lang, clip.num_frames, str(clip.utterance.audio)))
    for lang in sorted({clip.utterance.lang for clip in ranked}):
        members = [clip for clip in ranked if clip.utterance.lang == lang]
        # An utterance alone would be compared with itself, so a group may be larger than asked for.
        num_groups = max(1, min(math.ceil(len(members) / size), len(members) // 2))
        bounds = [round(number * len(members) / num_groups) for number in range(num_groups + 1)]
        yield from (members[start:end] for start, end in pairwise(bounds))


def require_partners(clips: Sequence[Clip]) -> None:
    """Make sure that some utterance can be given another one's audio, or the gap would be zero whatever is learned.

    Raises:
        DataError: no two are of one language.
    """
    langs = [clip.utterance.lang for clip in clips]
    if len(set(langs)) == len(langs):
        raise DataError(
            "data.evaluate: the alignment gate compares an utterance with another one of its language, and of the "
            f"{len(langs)} test utterances that it looks at no two are of one language: add some, raise "
            "probe_utterances, or set align.gate: null"
        )


def measure_pairwise_cosine(tokens: torch.Tensor) -> float:
    """Mean cosine over pairs of rows, (|sum of unit rows|^2 - M) / (M (M - 1)).

    Args:
        tokens: (M, H).
    """
    count = len(tokens)
    if count < 2:
        return 0.0
    total = torch.nn.functional.normalize(tokens.double(), dim=-1).sum(0)
    return (float(total.square().sum()) - count) / (count * (count - 1))


def _count_correct(logits: torch.Tensor, batch: SpeechBatch) -> int:
    labels = batch.labels[batch.labels != IGNORED]
    return int((logits.argmax(-1) == labels).sum())


def _look_at_tokens(tally: _Tally, tokens: torch.Tensor | None, forward: SpeechForward, batch: SpeechBatch) -> None:
    if tokens is None:
        return
    table = forward.model.get_input_embeddings()
    embeddings: torch.Tensor = table(batch.labels[batch.labels != IGNORED])
    tally.cosines.append(measure_pairwise_cosine(tokens.float()))
    tally.audio_power.append(float(tokens.float().square().mean()))
    tally.text_power.append(float(embeddings.float().square().mean()))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
