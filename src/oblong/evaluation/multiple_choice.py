"""Multiple choice by likelihood: which continuation of a context does the model find most probable?

    log p(choice | context) = sum over the choice's tokens of ln p(x_t | x_<t)

Tokens, sums and choices are those of lm-eval, so that the same questions give the same answers there: the choice's
tokens are those of `context + choice` after as many as `context` alone has; `acc_norm` divides by characters.

Source: Gao et al., lm-evaluation-harness 0.4.13, `TemplateLM._encode_pair` and `ConfigurableTask.process_results`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from oblong.corpora.questions import Metric, Question
from oblong.errors import DataError, NonFinitePredictionError
from oblong.evaluation.encoding import adds_bos
from oblong.evaluation.perplexity import can_keep_logits, scoring

LogLikelihoods = tuple[NDArray[np.float64], ...]
"""Per question its choices' log-likelihoods, nats."""
OnProgress = Callable[[int, int], None]
ROW_TOKENS: Final = 1024  # of all rows of a batch together, padding included: short rows go many at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One sequence to read, and the choices that it answers.

    Choices of one token share their inputs, the context alone, so that one row answers them all.

    Attributes:
        inputs: token ids.
        targets: per choice (question, choice): the token ids to predict at the end of the inputs.
    """

    inputs: tuple[int, ...]
    targets: dict[tuple[int, int], tuple[int, ...]]

    @property
    def num_targets(self) -> int:
        """Positions whose logits are needed: the last so many."""
        return max(map(len, self.targets.values()))


def score_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    on_progress: OnProgress | None = None,
) -> LogLikelihoods:
    """Log-likelihood of every choice of every question, nats.

    Logits are in the model's dtype; log-softmax is float32.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        questions: contexts with their choices.
        on_progress: called after every batch with the sequences done and their total.

    Raises:
        DataError: a question is longer than the model's context, or a choice has no tokens of its own.
        NonFinitePredictionError: the model predicts NaN or infinity.
    """
    rows = collect_rows(tokenizer, questions)
    _check_length(model, rows)
    scores = tuple(np.zeros(len(question.choices)) for question in questions)
    done = 0
    with scoring(model):
        for batch in _batch(rows):
            _score_batch(model, batch, scores)
            done += len(batch)
            if on_progress is not None:
                on_progress(done, len(rows))
    for number, values in enumerate(scores, 1):
        if not np.isfinite(values).all():
            raise NonFinitePredictionError(
                f"the model's predictions for question {number} are not finite numbers: look for a diverged run"
            )
    return scores


def judge(questions: Sequence[Question], scores: LogLikelihoods, metric: Metric) -> tuple[bool, ...]:
    """Whether the best choice is the right one, per question; of equally good ones the first counts as chosen.

    Args:
        questions: contexts with their choices.
        scores: from `score_questions`.
        metric: `acc`, or `acc_norm` to divide by the choices' characters.
    """
    return tuple(
        int(np.argmax(values / _lengths(question) if metric == "acc_norm" else values)) == question.answer
        for question, values in zip(questions, scores, strict=True)
    )


def _lengths(question: Question) -> NDArray[np.float64]:
    return np.array([len(choice) for choice in question.choices], dtype=np.float64)


def collect_rows(tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> list[_Row]:
    """The different sequences that answer all choices, the longest first."""
    prefix = (tokenizer.bos_token_id,) if adds_bos(tokenizer) else ()
    rows: dict[tuple[int, ...], _Row] = {}
    for number, question in enumerate(questions):
        context = (*prefix, *_encode(tokenizer, question.context))
        for place, choice in enumerate(question.choices):
            whole = (*prefix, *_encode(tokenizer, question.context + choice))
            targets = whole[len(context) :]
            if not context or not targets:
                raise DataError(f"choice {place + 1} of question {number + 1} has no tokens of its own: {choice!r}")
            row = rows.setdefault(whole[:-1], _Row(inputs=whole[:-1], targets={}))
            row.targets[number, place] = targets
    return sorted(rows.values(), key=lambda row: -len(row.inputs))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _batch(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    """Rows of like length together, the longest first."""
    place = 0
    while place < len(rows):
        size = max(1, ROW_TOKENS // len(rows[place].inputs))
        yield rows[place : place + size]
        place += size


def _score_batch(model: PreTrainedModel, batch: Sequence[_Row], scores: LogLikelihoods) -> None:
    """Read the rows, padded on the right, and write down their choices' log-likelihoods."""
    longest = len(batch[0].inputs)
    tokens_BT = torch.zeros(len(batch), longest, dtype=torch.long)
    mask_BT = torch.zeros_like(tokens_BT)
    for place, row in enumerate(batch):
        tokens_BT[place, : len(row.inputs)] = torch.tensor(row.inputs)
        mask_BT[place, : len(row.inputs)] = 1
    first = min(len(row.inputs) - row.num_targets for row in batch)
    options = {"logits_to_keep": longest - first} if can_keep_logits(model) else {}
    mask = None if bool(mask_BT.all()) else mask_BT.to(model.device)
    output = model(input_ids=tokens_BT.to(model.device), attention_mask=mask, use_cache=False, **options)
    logits_BKV = output.logits[:, first - longest :]
    for place, row in enumerate(batch):
        end = len(row.inputs) - first
        _score_row(logits_BKV[place, end - row.num_targets : end], row, scores)


def _score_row(logits_KV: Tensor, row: _Row, scores: LogLikelihoods) -> None:
    """Write down one row's choices; the last logits predict each choice's last token."""
    log_p_KV = logits_KV.float().log_softmax(dim=-1)
    for (question, choice), targets in row.targets.items():
        targets_K1 = torch.tensor(targets).to(log_p_KV.device)[:, None]
        picked_K = log_p_KV[row.num_targets - len(targets) :].gather(-1, targets_K1)
        scores[question][choice] = float(picked_K.double().sum())


def _check_length(model: PreTrainedModel, rows: Sequence[_Row]) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(row.inputs) for row in rows)
    if limit is not None and longest > limit:
        raise DataError(f"a question of {longest} tokens is longer than the model's context of {limit}")
