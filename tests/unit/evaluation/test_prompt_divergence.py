from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from oblong.errors import DataError
from oblong.evaluation.prompt_divergence import score_prompts
from oblong.evaluation.statistics import bootstrap_divergence, bootstrap_loss
from oblong.records import DocumentScore
from tests.tiny_configs import make_llama_config
from tests.tuning_builders import make_tokenizer

TOKENIZER = make_tokenizer()
PROMPTS = ("What is", "Say", "Count to three:")
AGREES = 1e-4


def make_llama(seed: int, *, vocabulary: int = 257) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = make_llama_config(
        vocab_size=vocabulary,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()  # type: ignore[no-untyped-call, no-any-return]


def test_the_base_itself_has_not_moved() -> None:
    base = make_llama(0)
    scores = score_prompts(base, base, TOKENIZER, PROMPTS, num_tokens=6)
    assert [score.kl for score in scores] == [0.0, 0.0, 0.0]
    assert all(1 <= score.num_tokens <= 6 for score in scores)


@torch.no_grad()
def test_one_token_is_the_divergence_after_the_prompt() -> None:
    base, model = make_llama(0), make_llama(1)
    for prompt, score in zip(PROMPTS, score_prompts(model, base, TOKENIZER, PROMPTS, num_tokens=1), strict=True):
        tokens = torch.tensor([TOKENIZER(prompt, add_special_tokens=False)["input_ids"]])
        log_q, log_p = (net(tokens).logits[0, -1].double().log_softmax(-1) for net in (base, model))
        assert score.num_tokens == 1
        assert score.kl == pytest.approx(float((log_q.exp() * (log_q - log_p)).sum()), rel=AGREES)


def test_a_prompt_is_scored_alike_whatever_follows_it_and_again_by_the_same_seed() -> None:
    base, model = make_llama(0), make_llama(1)
    whole = score_prompts(model, base, TOKENIZER, PROMPTS, num_tokens=5, seed=3)
    assert score_prompts(model, base, TOKENIZER, PROMPTS[:1], num_tokens=5, seed=3) == whole[:1]
    assert score_prompts(model, base, TOKENIZER, PROMPTS, num_tokens=5, seed=3) == whole
    assert score_prompts(model, base, TOKENIZER, PROMPTS, num_tokens=5, seed=30) != whole


@torch.no_grad()
def test_its_mean_is_the_log_ratio_of_whole_continuations() -> None:
    # Two tokens: the exact sum over the first token of q(y) (KL after y), plus the KL of the first token itself.
    base, model = make_llama(0, vocabulary=257), make_llama(1, vocabulary=257)
    tokens = torch.tensor(TOKENIZER("Say", add_special_tokens=False)["input_ids"])
    first = torch.cat([tokens.expand(257, -1), torch.arange(257)[:, None]], dim=1)
    log_q, log_p = (net(first).logits.double().log_softmax(-1) for net in (base, model))
    kl = (log_q.exp() * (log_q - log_p)).sum(-1)
    is_end = torch.arange(257) == TOKENIZER.eos_token_id
    after = log_q[0, -2].exp() * torch.where(is_end, 0.0, kl[:, -1])
    expected = float(kl[0, -2] + after.sum())
    drawn = [score_prompts(model, base, TOKENIZER, ["Say"], num_tokens=2, seed=seed)[0].kl or 0.0 for seed in range(60)]
    deviation = float(torch.tensor(drawn).std()) / 60**0.5
    assert abs(sum(drawn) / 60 - expected) < 4 * deviation


def test_intervals_over_prompts() -> None:
    scores = [DocumentScore(nll=1.0, num_tokens=10, num_bytes=1, kl=kl) for kl in (1.0, 2.0, 6.0)]
    interval = bootstrap_divergence(scores)
    assert interval.mean == pytest.approx(0.3)
    assert interval.p_value is None
    as_loss = bootstrap_loss([score.model_copy(update={"nll": score.kl}) for score in scores])
    assert (interval.low, interval.high) == (as_loss.low, as_loss.high)
    with pytest.raises(DataError, match="without a base"):
        bootstrap_divergence([DocumentScore(nll=1.0, num_tokens=1, num_bytes=1)] * 2)


def test_bad_prompts() -> None:
    base = make_llama(0)
    with pytest.raises(DataError, match="no prompts"):
        score_prompts(base, base, TOKENIZER, [])
    with pytest.raises(DataError, match="prompt is empty"):
        score_prompts(base, base, TOKENIZER, [""])
    with pytest.raises(DataError, match="different vocabularies"):
        score_prompts(make_llama(1, vocabulary=300), base, TOKENIZER, ["Say"], num_tokens=2)
