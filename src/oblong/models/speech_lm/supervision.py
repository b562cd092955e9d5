"""Training inputs that are right by construction, and the test that a trainer runs on its first batch.

A row is the prompt exactly as it is when decoding, then the transcript, then the token that ends the turn. Labels are
set by position, before any padding: transcript and end are learned and nothing else, also where the padding token is
the end token (SmolLM2), which label rules by value lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from oblong.errors import VerificationError
from oblong.models.speech_lm.modeling import IGNORED
from oblong.models.speech_lm.processing import SpeechLMProcessor


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingInputs:
    """One utterance.

    Attributes:
        input_ids: prompt with placeholders, transcript, end of turn; int64.
        labels: the same where transcript and end stand, -100 elsewhere; int64.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor


def make_training_inputs(
    processor: SpeechLMProcessor,
    *,
    num_audio_tokens: int,
    text: str,
    language: str | None = None,
    prompt: str | None = None,
) -> TrainingInputs:
    """Write one utterance.

    Args:
        processor: the model's.
        num_audio_tokens: see `frames.count_audio_tokens`.
        text: the transcript; may be empty for silence. Special tokens spelled out in it stay text.
        language: see `SpeechLMProcessor.make_prompt`.
        prompt: the same.
    """
    head = list(tokenise_prompt(processor, processor.make_prompt(language=language, prompt=prompt), num_audio_tokens))
    answer = tokenise_answer(processor, text)
    labels = [IGNORED] * len(head) + answer
    return TrainingInputs(input_ids=torch.tensor(head + answer), labels=torch.tensor(labels))


def tokenise_prompt(processor: SpeechLMProcessor, prompt: str, num_audio_tokens: int) -> list[int]:
    """The ids of a prompt, its one placeholder repeated."""
    ids: list[int] = processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    start = ids.index(processor.audio_token_id)
    return [*ids[:start], *[processor.audio_token_id] * num_audio_tokens, *ids[start + 1 :]]


def tokenise_answer(processor: SpeechLMProcessor, text: str) -> list[int]:
    """The ids of a transcript and of the end of the turn."""
    tokenizer = processor.tokenizer
    words: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    end: list[int] = tokenizer(processor.end_of_turn, add_special_tokens=False)["input_ids"]
    return words + end


def pad_training_inputs(
    items: Sequence[TrainingInputs], processor: SpeechLMProcessor, *, side: Literal["left", "right"] = "right"
) -> dict[str, torch.Tensor]:
    """A batch of utterances.

    Args:
        items: B of them.
        processor: its tokenizer says what to pad with.
        side: where the padding goes.

    Returns:
        `input_ids`, `attention_mask` and `labels`, each (B, length of the longest), int64.
    """
    padding = processor.tokenizer.pad_token_id
    columns = {
        "input_ids": ([item.input_ids for item in items], 0 if padding is None else int(padding)),
        "attention_mask": ([torch.ones_like(item.input_ids) for item in items], 0),
        "labels": ([item.labels for item in items], IGNORED),
    }
    return {
        name: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
        for name, (rows, value) in columns.items()
    }


def check_supervision(
    processor: SpeechLMProcessor,
    batch: Mapping[str, torch.Tensor],
    *,
    texts: Sequence[str],
    num_audio_tokens: Sequence[int],
) -> None:
    """Prove on a batch that exactly transcript and end of turn are learned; a trainer runs this on its first.

    Args:
        processor: the model's.
        batch: `input_ids`, `attention_mask`, `labels`, each (B, L).
        texts: the transcripts.
        num_audio_tokens: what the audio makes.

    Raises:
        VerificationError: naming every row that is wrong, and how.
    """
    problems = []
    for row, (text, count) in enumerate(zip(texts, num_audio_tokens, strict=True)):
        ids, labels, mask = (batch[name][row] for name in ("input_ids", "labels", "attention_mask"))
        problems += [
            f"row {row}: {problem}" for problem in _find_problems(processor, ids, labels, mask.bool(), text, count)
        ]
    if problems:
        raise VerificationError(problems)


def _find_problems(
    processor: SpeechLMProcessor, ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, text: str, count: int
) -> list[str]:
    learned = labels != IGNORED
    decode = processor.tokenizer.decode
    problems = []
    if not torch.equal(labels[learned], ids[learned]):
        problems.append("labels are not the input ids")
    if bool((learned & ~mask).any()):
        problems.append("padding is learned")
    if bool((learned & (ids == processor.audio_token_id)).any()):
        problems.append("audio placeholders are learned")
    if (places := int((ids == processor.audio_token_id).sum())) != count:
        problems.append(f"{places} audio placeholders for {count} audio tokens")
    if labels[learned].tolist() != tokenise_answer(processor, text):
        shown = decode(labels[learned].tolist())
        problems.append(f"{shown!r} is learned, and not {text + processor.end_of_turn!r}")
    is_past = torch.cumsum(learned, 0) == int(learned.sum())
    after = mask & is_past & ~learned
    if bool(after.any()):
        problems.append("tokens follow the end of the turn")
    return problems
