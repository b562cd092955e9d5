from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from oblong.errors import DataError, OperationalError
from oblong.evaluation.perplexity import score_corpus
from tests.tiny_configs import make_llama_config
from tests.tolerances import SCORE_AGAINST_REFERENCE
from tests.tuning_builders import make_tokenizer

TOKENIZER = make_tokenizer()
LONG = "It is a truth universally acknowledged, that a single man must be in want of a wife. 😀 " * 3
TEXTS = ("short", LONG, "a", "middling text of a few words", LONG[5:150])
WHOLE = 512


def make_llama(seed: int = 0, *, vocabulary: int = 257, spread: float = 0.3) -> PreTrainedModel:
    """A random float32 Llama; a wide spread of weights makes its predictions far from uniform."""
    torch.manual_seed(seed)
    config = make_llama_config(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        max_position_embeddings=WHOLE,
        initializer_range=spread,
    )
    return LlamaForCausalLM(config).eval()  # type: ignore[no-untyped-call, no-any-return]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make_llama()


@torch.no_grad()
def score_naively(model: PreTrainedModel, text: str, base: PreTrainedModel | None = None) -> tuple[float, float]:
    """Negative log-likelihood and KL of a whole document in one forward pass, float64."""
    tokens = torch.tensor([TOKENIZER(text)["input_ids"]])
    log_p = model(tokens).logits[0, :-1].double().log_softmax(-1)
    nll = -log_p.gather(-1, tokens[0, 1:, None]).sum()
    log_q = (base or model)(tokens).logits[0, :-1].double().log_softmax(-1)
    return float(nll), float((log_q.exp() * (log_q - log_p)).sum())


def test_equals_one_forward_pass_where_the_document_fits(model: PreTrainedModel) -> None:
    base = make_llama(1)
    texts = [text for text in TEXTS if len(text) > 1]
    scores = score_corpus(model, TOKENIZER, texts, window=WHOLE, stride=WHOLE, base_model=base)
    for text, score in zip(texts, scores, strict=True):
        nll, kl = score_naively(model, text, base)
        assert score.nll == pytest.approx(nll, rel=SCORE_AGAINST_REFERENCE)
        assert score.kl == pytest.approx(kl, rel=SCORE_AGAINST_REFERENCE)
        assert score.num_tokens == score.num_bytes == len(text.encode()) - 1


def test_equals_a_walk_window_by_window(model: PreTrainedModel) -> None:
    # The reference predicts one token at a time from the context that its window leaves it.
    window, stride = 32, 12
    tokens = TOKENIZER(LONG)["input_ids"]
    nll, end = 0.0, 1
    while end < len(tokens):
        first, end = end, min(len(tokens), end + (window if end == 1 else stride))
        start = max(0, end - 1 - window)
        for target in range(first, end):
            with torch.no_grad():
                logits = model(torch.tensor([tokens[start:target]])).logits[0, -1].double()
            nll -= float(logits.log_softmax(-1)[tokens[target]])
    (score,) = score_corpus(model, TOKENIZER, [LONG], window=window, stride=stride)
    assert score.nll == pytest.approx(nll, rel=SCORE_AGAINST_REFERENCE)
    assert score.nll != pytest.approx(score_naively(model, LONG)[0], rel=10 * SCORE_AGAINST_REFERENCE)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batches_and_padding_change_nothing(model: PreTrainedModel, batch_size: int) -> None:
    texts = [text for text in TEXTS if len(text) > 1]
    alone = [score_corpus(model, TOKENIZER, [text], window=40, stride=20, batch_size=1)[0] for text in texts]
    together = score_corpus(model, TOKENIZER, texts, window=40, stride=20, batch_size=batch_size)
    for one, other in zip(alone, together, strict=True):
        assert other.nll == pytest.approx(one.nll, rel=SCORE_AGAINST_REFERENCE)
        assert (other.num_tokens, other.num_bytes) == (one.num_tokens, one.num_bytes)


def test_the_number_of_tokens_does_not_depend_on_the_stride(model: PreTrainedModel) -> None:
    for window, stride in ((16, 1), (16, 7), (16, 16), (WHOLE, 256)):
        (score,) = score_corpus(model, TOKENIZER, [LONG], window=window, stride=stride, batch_size=16)
        assert score.num_tokens == len(LONG.encode()) - 1


def test_slices_change_nothing(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score_corpus(model, TOKENIZER, [LONG], base_model=make_llama(1))
    monkeypatch.setattr("oblong.evaluation.perplexity.SLICE_ELEMENTS", 7 * 257)
    (sliced,) = score_corpus(model, TOKENIZER, [LONG], base_model=make_llama(1))
    assert sliced.nll == pytest.approx(whole[0].nll, rel=SCORE_AGAINST_REFERENCE)
    assert sliced.kl == pytest.approx(whole[0].kl, rel=SCORE_AGAINST_REFERENCE)


def test_kl_is_zero_to_itself_positive_to_another_and_null_without_a_base(model: PreTrainedModel) -> None:
    (same,) = score_corpus(model, TOKENIZER, [LONG], base_model=model)
    (other,) = score_corpus(model, TOKENIZER, [LONG], base_model=make_llama(1))
    (none,) = score_corpus(model, TOKENIZER, [LONG])
    assert same.kl == 0
    assert other.kl is not None
    assert other.kl > 1
    assert none.kl is None


def test_kl_survives_a_vocabulary_padded_with_minus_infinity(model: PreTrainedModel) -> None:
    class Padded(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = head(hidden)
            return logits.index_fill(-1, torch.tensor([256]), -math.inf)

    padded = make_llama()
    head = padded.lm_head
    padded.lm_head = Padded()
    (score,) = score_corpus(padded, TOKENIZER, [LONG], base_model=padded)
    assert score.kl == 0
    assert math.isfinite(score.nll)


def test_a_uniform_model_scores_the_logarithm_of_its_vocabulary() -> None:
    model = make_llama()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    (score,) = score_corpus(model, TOKENIZER, [LONG], window=64, stride=32)
    assert score.nll / score.num_tokens == pytest.approx(math.log(257), rel=SCORE_AGAINST_REFERENCE)


def test_leaves_the_model_as_it_was(model: PreTrainedModel) -> None:
    model.train()
    try:
        first = score_corpus(model, TOKENIZER, ["some text"])
        assert model.training
        assert all(parameter.grad is None for parameter in model.parameters())
        assert first == score_corpus(model, TOKENIZER, ["some text"])
    finally:
        model.train(False)


def test_reports_progress_up_to_the_end(model: PreTrainedModel) -> None:
    seen: list[tuple[int, int]] = []
    score_corpus(
        model, TOKENIZER, [LONG], window=32, stride=16, batch_size=4, on_progress=lambda *step: seen.append(step)
    )
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == seen[-1][1] == 1 + math.ceil((len(LONG.encode()) - 1 - 32) / 16)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no documents"),
        (["fine", ""], {}, "document 2 is too short"),
        (["fine"], {"window": 1024}, "longer than the model's context of 512"),
        (["fine"], {"window": 8, "stride": 9}, "a stride of 9 does not fit"),
    ],
)
def test_a_bad_request_is_refused(
    model: PreTrainedModel, texts: list[str], options: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        score_corpus(model, TOKENIZER, texts, **options)  # type: ignore[arg-type]


def test_a_base_with_another_vocabulary_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(DataError, match="a vocabulary of 300, the model of 257"):
        score_corpus(model, TOKENIZER, ["fine"], base_model=make_llama(vocabulary=300))


def test_a_model_of_nan_is_named_not_scored() -> None:
    broken = make_llama()
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    with pytest.raises(OperationalError, match="document 1 are not finite"):
        score_corpus(broken, TOKENIZER, ["fine"])
