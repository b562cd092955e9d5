"""How well a model predicts text: total negative log-likelihood, and KL divergence from a base, document by document.

Symbols in shapes: B windows in a batch, K positions kept, V vocabulary, N positions of one slice.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from oblong.errors import DataError, NonFinitePredictionError
from oblong.evaluation.encoding import EncodedDocument, encode_document
from oblong.evaluation.windows import Window, batch_windows, check_window, cut_windows
from oblong.records import DocumentScore

OnProgress = Callable[[int, int], None]
"""Called with the windows done and their total."""

# Positions are scored a few at a time: float32 log-probabilities of a whole batch would be the largest thing in
# memory (4 x 512 x 49152 x 4 bytes = 400 MB); slices of 8 MB also stay in the cache.
SLICE_ELEMENTS: Final = 1 << 21


@dataclass(slots=True)
class _Sums:
    """Running totals of one document, nats."""

    nll: float = 0.0
    kl: float = 0.0


def score_corpus(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    *,
    window: int = 512,
    stride: int = 256,
    base_model: PreTrainedModel | None = None,
    batch_size: int = 4,
    on_progress: OnProgress | None = None,
) -> tuple[DocumentScore, ...]:
    """Score every document by strided windows.

    nll = - sum over targets of ln p(x_t | context),  kl = sum over the same positions of KL(p_base || p_model)

    Every token but the first is predicted exactly once; what "first" means under a BOS is in `EncodedDocument`.
    Logits are in the model's dtype; log-softmax is float32 and the sums are float64.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        documents: texts, each scored by itself.
        window: context, tokens.
        stride: tokens newly predicted per window, at most `window`; smaller gives more context and costs more.
        base_model: the model to compute KL against, on the same windows; it must have the same vocabulary.
        batch_size: windows per forward pass.
        on_progress: called after every batch.

    Returns:
        One score per document, in order.

    Raises:
        DataError: no documents, one with nothing to predict, a window that does not fit the model, or a base with
            another vocabulary.
        NonFinitePredictionError: the model predicts NaN or infinity.
    """
    check_window(window, stride)
    _check_context(model, window)
    if not documents:
        raise DataError("there are no documents to evaluate")
    encoded = [encode_document(tokenizer, text, number=number) for number, text in enumerate(documents, 1)]
    windows = [
        piece
        for index, document in enumerate(encoded)
        for piece in cut_windows(index, len(document.tokens), window=window, stride=stride)
    ]
    sums = [_Sums() for _ in encoded]
    with scoring(model), scoring(base_model):
        done = 0
        for batch in batch_windows(windows, batch_size):
            _score_batch(model, base_model, encoded, batch, sums)
            done += len(batch)
            if on_progress is not None:
                on_progress(done, len(windows))
    return tuple(
        _finish(number, document, total, with_kl=base_model is not None)
        for number, (document, total) in enumerate(zip(encoded, sums, strict=True), 1)
    )


def _score_batch(
    model: PreTrainedModel,
    base_model: PreTrainedModel | None,
    documents: Sequence[EncodedDocument],
    batch: Sequence[Window],
    sums: Sequence[_Sums],
) -> None:
    """Add the batch's windows to their documents' sums."""
    first = min(window.first_position for window in batch)
    logits_BKV = _forward(model, documents, batch, first)
    base_BKV = None if base_model is None else _forward(base_model, documents, batch, first)
    if base_BKV is not None and base_BKV.shape != logits_BKV.shape:
        raise DataError(
            f"the base model has a vocabulary of {base_BKV.shape[-1]}, the model of {logits_BKV.shape[-1]}:"
            " KL needs two models with the same tokenizer"
        )
    for row, window in enumerate(batch):
        kept = slice(window.first_position - first, window.num_inputs - first)
        targets = torch.tensor(documents[window.document].tokens[window.first_target : window.end])
        base = None if base_BKV is None else base_BKV[row, kept]
        nll, kl = score_positions(logits_BKV[row, kept], targets.to(logits_BKV.device), base)
        sums[window.document].nll += nll
        sums[window.document].kl += kl


def _forward(
    model: PreTrainedModel, documents: Sequence[EncodedDocument], batch: Sequence[Window], first: int
) -> Tensor:
    """Logits of the inputs from position `first` on, B x K x V, in the model's dtype.

    Windows are padded on the right: a causal model's outputs do not depend on what follows. The mask is passed only
    where there is padding, since it takes attention off its fastest path.
    """
    longest = max(window.num_inputs for window in batch)
    tokens_BT = torch.zeros(len(batch), longest, dtype=torch.long)
    mask_BT = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, window in enumerate(batch):
        tokens_BT[row, : window.num_inputs] = torch.tensor(
            documents[window.document].tokens[window.start : window.end - 1]
        )
        mask_BT[row, : window.num_inputs] = 1
    mask = None if bool(mask_BT.all()) else mask_BT.to(model.device)
    options = {"logits_to_keep": longest - first} if can_keep_logits(model) else {}
    output = model(input_ids=tokens_BT.to(model.device), attention_mask=mask, use_cache=False, **options)
    logits: Tensor = output.logits
    return logits[:, -(longest - first) :]


def score_positions(logits_KV: Tensor, targets_K: Tensor, base_KV: Tensor | None) -> tuple[float, float]:
    """Sums of negative log-likelihood and KL(base || model) over positions, nats, slice by slice."""
    rows = max(1, SLICE_ELEMENTS // logits_KV.shape[-1])
    nll = kl = 0.0
    for place in range(0, len(targets_K), rows):
        part = slice(place, place + rows)
        log_p_NV = logits_KV[part].float().log_softmax(dim=-1)
        nll -= float(log_p_NV.gather(-1, targets_K[part, None]).double().sum())
        if base_KV is not None:
            kl += _sum_kl(base_KV[part].float().log_softmax(dim=-1), log_p_NV)
    return nll, kl


def _sum_kl(log_q_NV: Tensor, log_p_NV: Tensor) -> float:
    """Sum over positions of KL(q || p) = sum_v q (ln q - ln p), nats."""
    terms_NV = log_q_NV.exp() * (log_q_NV - log_p_NV)
    # 0 ln 0 is 0; a vocabulary padded with minus infinity would make it NaN.
    return float(terms_NV.masked_fill_(log_q_NV.isneginf(), 0.0).sum(dim=-1).double().sum())


def _finish(number: int, document: EncodedDocument, sums: _Sums, *, with_kl: bool) -> DocumentScore:
    if not (math.isfinite(sums.nll) and math.isfinite(sums.kl)):
        raise NonFinitePredictionError(
            f"the model's predictions for document {number} are not finite numbers: its weights hold NaN or infinity,"
            " or overflow in this dtype. Look for a diverged run; `oblong scan` names tensors that are not finite"
        )
    return DocumentScore(
        nll=max(0.0, sums.nll),
        num_tokens=document.num_targets,
        num_bytes=document.num_bytes,
        # Rounding can leave the KL of two equal predictions a hair below zero.
        kl=max(0.0, sums.kl) if with_kl else None,
    )


def can_keep_logits(model: PreTrainedModel) -> bool:
    """Whether its forward pass can leave out the logits of all but the last positions."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def _check_context(model: PreTrainedModel, window: int) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and window > limit:
        raise DataError(
            f"a window of {window} tokens is longer than the model's context of {limit}: choose a shorter one"
        )


@contextmanager
def scoring(model: PreTrainedModel | None) -> Iterator[None]:
    """Evaluation mode without gradients; the mode is restored."""
    was_training = model is not None and model.training
    if model is not None:
        model.train(False)
    try:
        with torch.inference_mode():
            yield
    finally:
        if model is not None:
            model.train(was_training)
