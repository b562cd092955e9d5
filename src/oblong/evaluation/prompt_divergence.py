"""KL to the base on task prompts: how far a model's own answers to the new task have moved, without any text given.

Of all cheap measures this one predicts forgetting best in the study it is from: what a model forgets follows how far it
moved on the new task, whatever the method that moved it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from oblong.errors import DataError, OperationalError
from oblong.evaluation.encoding import adds_bos
from oblong.evaluation.perplexity import score_positions, scoring
from oblong.records import DocumentScore


def score_prompts(
    model: PreTrainedModel,
    base_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    num_tokens: int = 64,
    seed: int = 0,
) -> tuple[DocumentScore, ...]:
    """Let the base continue each prompt, and compare both models along its continuation.

    kl = sum over positions t of KL(p_base(. | prompt, y_<t) || p_model(. | prompt, y_<t)),   y ~ p_base

    The expectation of that sum over y is the KL divergence of whole continuations, by the chain rule; taking each
    position's divergence over the whole vocabulary instead of the drawn token's log-ratio removes most of its variance.
    Prompts are drawn one by one, each from a seed of its own, so that a score does not depend on its neighbours.

    Args:
        model: the tuned model.
        base_model: the model that it was tuned from; it samples, at temperature 1.
        tokenizer: of both.
        prompts: the new task's inputs, without answers.
        num_tokens: of each continuation at most; it ends early at the end-of-text token.
        seed: of the sampling.

    Returns:
        One score per prompt, so that `bootstrap_divergence` can resample prompts: `kl` as above; `nll` of the
        continuation under the model, nats; `num_bytes` of the continuation's text.

    Raises:
        DataError: no prompts, an empty one, or models with different vocabularies.
        OperationalError: predictions that are not finite.
    """
    if not prompts:
        raise DataError("there are no prompts to continue")
    with scoring(model), scoring(base_model):
        return tuple(
            _score_prompt(model, base_model, tokenizer, prompt, num_tokens=num_tokens, seed=seed + number)
            for number, prompt in enumerate(prompts)
        )


def _score_prompt(
    model: PreTrainedModel,
    base_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    num_tokens: int,
    seed: int,
) -> DocumentScore:
    context_1T = _encode(tokenizer, prompt).to(base_model.device)
    whole_1T = _continue(base_model, context_1T, tokenizer.eos_token_id, num_tokens=num_tokens, seed=seed)
    kept = slice(context_1T.shape[1] - 1, whole_1T.shape[1] - 1)
    base_KV = base_model(input_ids=whole_1T, use_cache=False).logits[0, kept]
    logits_KV = model(input_ids=whole_1T.to(model.device), use_cache=False).logits[0, kept]
    if base_KV.shape != logits_KV.shape:
        raise DataError("the models have different vocabularies: KL needs two models with the same tokenizer")
    targets_K = whole_1T[0, context_1T.shape[1] :].to(logits_KV.device)
    nll, kl = score_positions(logits_KV, targets_K, base_KV.to(logits_KV.device))
    if not (math.isfinite(nll) and math.isfinite(kl)):
        raise OperationalError(f"the predictions after {prompt[:40]!r} are not finite numbers: look for a diverged run")
    text = str(tokenizer.decode(targets_K.tolist()))
    return DocumentScore(
        nll=max(0.0, nll), num_tokens=len(targets_K), num_bytes=max(1, len(text.encode())), kl=max(0.0, kl)
    )


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: str) -> Tensor:
    """Token ids, 1 x T, after the tokenizer's BOS if it adds one by itself."""
    tokens = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    if not tokens:
        raise DataError("a prompt is empty: there is nothing to continue; remove it")
    return torch.tensor([[tokenizer.bos_token_id, *tokens] if adds_bos(tokenizer) else tokens])


def _continue(model: PreTrainedModel, context_1T: Tensor, end: int | None, *, num_tokens: int, seed: int) -> Tensor:
    """The context with up to `num_tokens` tokens sampled from the model, 1 x T.

    Not `generate`: that would apply the temperature, top-p and penalties of the model's generation config.
    """
    generator = torch.Generator().manual_seed(seed)
    whole_1T, cache = context_1T, None
    for _ in range(num_tokens):
        output = model(input_ids=whole_1T if cache is None else whole_1T[:, -1:], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        probabilities = output.logits[0, -1].float().softmax(dim=-1).cpu()
        token = torch.multinomial(probabilities, 1, generator=generator)
        whole_1T = torch.cat([whole_1T, token[None].to(whole_1T.device)], dim=1)
        if end is not None and int(token) == end:
            break
    return whole_1T
