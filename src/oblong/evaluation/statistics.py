"""What a difference of losses is worth: intervals over documents and seeds.

Tokens of one document stand or fall together, so documents are resampled, not tokens. The loss is a ratio of totals
(nats / tokens), computed anew for every resample.

    interval = estimate +- t * sqrt(V_documents + V_seeds)

- V_documents is the variance of the bootstrap resamples, times D / (D - 1) for what resampling D documents from D
  underestimates. Documents are the same under every seed, so one resample serves all seeds.
- V_seeds is the variance of the seeds' own estimates, divided by S, from three seeds on. With one or two seeds it is
  left out: the interval is then conditional on those seeds and says nothing about others.
- t is Student's, with Satterthwaite's degrees of freedom: near D - 1 where documents decide, near S - 1 where seeds do.

An interaction of documents and seeds is counted in both variances, so the interval errs on the wide side. Percentile
intervals are not used: with few documents or seeds they are far too short, since no resample lies outside the data
(design/030-intervals.md has the simulation). The p-value of a difference is that of the same t: it is below
1 - confidence exactly where the interval excludes zero.

Source: Hesterberg 2015, "What teachers should know about the bootstrap", The American Statistician 69(4); Miller
2024, arXiv:2411.00640 (clustering by document, pairing).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from oblong.errors import DataError
from oblong.records import DocumentScore, Interval

Array = NDArray[np.float64]
PerSeed = Sequence[Sequence[DocumentScore]]

MIN_SEEDS_TO_COUNT: Final = 3
BLOCK_ELEMENTS: Final = 1 << 22  # of the matrix of resampling counts: 32 MiB at a time


def bootstrap_difference(
    after: PerSeed,
    before: PerSeed | Sequence[DocumentScore],
    *,
    seed: int = 0,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """Difference of losses, after - before, in nats per token, paired over documents.

    mean over seeds of  sum_d (nll_after - nll_before) / sum_d tokens

    Args:
        after: `S x D` scores: per seed, the same D documents in the same order.
        before: `D` scores of one base evaluation that all seeds share, or `S x D` scores of another arm with the same
            seeds in the same order.
        seed: of the resampling.
        num_resamples: bootstrap resamples.
        confidence: of the interval, between 0 and 1.

    Returns:
        The difference as `mean`, its interval, and the two-sided p-value of no difference.

    Raises:
        DataError: fewer than two documents, or evaluations that do not cover the same documents cut in the same way.
    """
    arms = _align(before, len(after))
    check_pairing(after, arms)
    nll_SD = collect_nll(after) - collect_nll(arms)
    return _bootstrap(nll_SD, collect_tokens(after[0]), seed, num_resamples, confidence, is_difference=True)


def bootstrap_difference_of_differences(
    one: tuple[PerSeed, PerSeed],
    other: tuple[PerSeed, PerSeed],
    *,
    seed: int = 0,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """Difference between two differences of losses, in nats per token, all four paired over documents and seeds.

    mean over seeds of  sum_d ((nll_after - nll_before)_one - (nll_after - nll_before)_other) / sum_d tokens

    Args:
        one: after and before, each `S x D` scores.
        other: the same of the other side, with the same seeds in the same order.
        seed: of the resampling.
        num_resamples: bootstrap resamples.
        confidence: of the interval, between 0 and 1.

    Raises:
        DataError: see `bootstrap_difference`.
    """
    for scores in (one[1], *other):
        check_pairing(one[0], scores)
    one_SD, other_SD = (collect_nll(after) - collect_nll(before) for after, before in (one, other))
    tokens_D = collect_tokens(one[0][0])
    return _bootstrap(one_SD - other_SD, tokens_D, seed, num_resamples, confidence, is_difference=True)


def bootstrap_loss(
    documents: Sequence[DocumentScore], *, seed: int = 0, num_resamples: int = 10_000, confidence: float = 0.95
) -> Interval:
    """Loss of one evaluation, nats per token, with its interval over documents.

    Args:
        documents: `D` scores.
        seed: of the resampling.
        num_resamples: bootstrap resamples.
        confidence: of the interval, between 0 and 1.

    Raises:
        DataError: fewer than two documents.
    """
    return _bootstrap(collect_nll([documents]), collect_tokens(documents), seed, num_resamples, confidence)


def bootstrap_divergence(
    documents: Sequence[DocumentScore], *, seed: int = 0, num_resamples: int = 10_000, confidence: float = 0.95
) -> Interval:
    """KL(base || model) of one evaluation, nats per token, with its interval over documents or prompts.

    Args:
        documents: `D` scores that have a KL, from `score_corpus` with a base or from `score_prompts`.
        seed: of the resampling.
        num_resamples: bootstrap resamples.
        confidence: of the interval, between 0 and 1.

    Raises:
        DataError: fewer than two documents, or one without KL.
    """
    totals = [document.kl for document in documents if document.kl is not None]
    if len(totals) < len(documents):
        raise DataError("these documents were scored without a base: evaluate again with one to measure KL")
    kl_1D = np.array([totals], dtype=np.float64)
    return _bootstrap(kl_1D, collect_tokens(documents), seed, num_resamples, confidence)


def bootstrap_ratio(
    totals: Sequence[float],
    sizes: Sequence[float],
    *,
    seed: int = 0,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """A ratio of totals over units that are resampled whole, such as errors / reference words over utterances.

    Args:
        totals: `D` numerators, of any sign: errors, or differences of errors between two systems.
        sizes: `D` denominators, none negative; a unit of size 0 (an empty reference) still brings its numerator.
        seed: of the resampling.
        num_resamples: bootstrap resamples; those whose sizes sum to 0 are left out.
        confidence: of the interval, between 0 and 1.

    Raises:
        DataError: fewer than two units have a size above 0.
    """
    sizes_D = np.asarray(sizes, dtype=np.float64)
    if np.count_nonzero(sizes_D) < 2:
        raise DataError("an interval needs at least two units that are not empty, since units are what is resampled")
    return _bootstrap(np.asarray([totals], dtype=np.float64), sizes_D, seed, num_resamples, confidence)


def bootstrap_accuracy_change(
    after: Sequence[Sequence[bool]],
    before: Sequence[bool],
    *,
    seed: int = 0,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """Change of accuracy, after - before, paired over questions, which are resampled as documents are above.

    Args:
        after: `S x N` answers, right or wrong: per seed, to the same N questions in the same order.
        before: `N` answers of the base.
        seed: of the resampling.
        num_resamples: bootstrap resamples.
        confidence: of the interval, between 0 and 1.

    Raises:
        DataError: fewer than two questions.
    """
    change_SN = np.array(after, dtype=np.float64) - np.array(before, dtype=np.float64)
    return _bootstrap(change_SN, np.ones(len(before)), seed, num_resamples, confidence, is_difference=True)


def _bootstrap(
    nll_SD: Array,
    tokens_D: Array,
    seed: int,
    num_resamples: int,
    confidence: float,
    *,
    is_difference: bool = False,
) -> Interval:
    if len(tokens_D) < 2:
        raise DataError(
            "an interval needs at least two documents, since documents are what is resampled: split the text into"
            " several (a folder of files, or one JSON Lines object per passage)"
        )
    resamples = _resample(nll_SD.mean(axis=0), tokens_D, np.random.default_rng(seed), num_resamples)
    interval = make_interval(
        float(nll_SD.sum(axis=1).mean() / tokens_D.sum()),
        _list_variances(nll_SD, tokens_D, resamples),
        num_resamples=num_resamples,
        confidence=confidence,
    )
    return interval if is_difference else interval.model_copy(update={"p_value": None})


def make_interval(
    estimate: float, variances: Sequence[tuple[float, int]], *, num_resamples: int, confidence: float
) -> Interval:
    """A t interval and the two-sided p-value of the estimate being zero.

    interval = estimate +- t sqrt(V),  p = P(|T| >= |estimate| / sqrt(V)),  V = sum of the variances

    Args:
        estimate: whose interval it is.
        variances: each with its degrees of freedom, which Satterthwaite's formula combines.
        num_resamples: that the variances rest on, for the record.
        confidence: of the interval, between 0 and 1.
    """
    total = sum(variance for variance, _ in variances)
    margin, p_value = 0.0, float(estimate == 0)
    if total > 0:
        # Shares first: squares of small variances would underflow.
        freedom = 1 / sum((variance / total) ** 2 / degrees for variance, degrees in variances)
        margin = -float(stdtrit(freedom, (1 - confidence) / 2)) * math.sqrt(total)
        p_value = 2 * float(stdtr(freedom, -abs(estimate) / math.sqrt(total)))
    return Interval(
        mean=estimate,
        low=estimate - margin,
        high=estimate + margin,
        confidence=confidence,
        num_resamples=num_resamples,
        p_value=p_value,
    )


def _list_variances(nll_SD: Array, tokens_D: Array, resamples: Array) -> list[tuple[float, int]]:
    """Variance of the estimate from documents and, given enough seeds, from seeds; each with its degrees of freedom."""
    num_seeds, num_documents = nll_SD.shape
    variances = [(float(resamples.var()) * num_documents / (num_documents - 1), num_documents - 1)]
    if num_seeds >= MIN_SEEDS_TO_COUNT:
        per_seed_S = nll_SD.sum(axis=1) / tokens_D.sum()
        variances.append((float(per_seed_S.var(ddof=1)) / num_seeds, num_seeds - 1))
    return variances


def _resample(nll_D: Array, tokens_D: Array, generator: np.random.Generator, num_resamples: int) -> Array:
    """The ratio estimate of every resample."""
    ratios = []
    for counts_BD in iter_counts(len(tokens_D), generator, num_resamples):
        tokens_B = counts_BD @ tokens_D
        ratios.append((counts_BD @ nll_D)[tokens_B > 0] / tokens_B[tokens_B > 0])
    return np.concatenate(ratios)


def iter_counts(num_documents: int, generator: np.random.Generator, num_resamples: int) -> Iterator[NDArray[np.int64]]:
    """How often each document occurs in each resample, in blocks that bound memory whatever the number of documents."""
    block = max(1, BLOCK_ELEMENTS // num_documents)
    even = np.full(num_documents, 1 / num_documents)
    for start in range(0, num_resamples, block):
        yield generator.multinomial(num_documents, even, size=min(block, num_resamples - start))


def _align(before: PerSeed | Sequence[DocumentScore], num_seeds: int) -> PerSeed:
    """One list of scores per seed: a single base evaluation is repeated."""
    if all(isinstance(score, DocumentScore) for score in before):
        return [cast("Sequence[DocumentScore]", before)] * num_seeds
    return cast("PerSeed", before)


def check_pairing(after: PerSeed, before: PerSeed) -> None:
    """Refuse sides with other seeds, other documents, or documents cut in another way.

    Raises:
        DataError: naming the first that differs.
    """
    if not after or len(after) != len(before):
        raise DataError(f"cannot pair {len(after)} runs with {len(before)}: both sides need the same seeds")
    expected = [document.num_tokens for document in after[0]]
    for scores in (*after, *before):
        tokens = [document.num_tokens for document in scores]
        if len(tokens) != len(expected):
            raise DataError(f"cannot pair evaluations of {len(expected)} and of {len(tokens)} documents")
        pairs = enumerate(zip(tokens, expected, strict=True))
        differing = next((place for place, (first, second) in pairs if first != second), None)
        if differing is not None:
            raise DataError(
                f"cannot pair document {differing + 1}: it has {expected[differing]} tokens in one evaluation and"
                f" {tokens[differing]} in another; evaluate both on the same text with the same tokenizer"
            )


def collect_nll(scores: PerSeed) -> Array:
    """Total negative log-likelihoods, `S x D`, nats."""
    return np.array([[document.nll for document in documents] for documents in scores], dtype=np.float64)


def collect_tokens(documents: Sequence[DocumentScore]) -> Array:
    """Predicted tokens, `D`."""
    return np.array([document.num_tokens for document in documents], dtype=np.float64)
