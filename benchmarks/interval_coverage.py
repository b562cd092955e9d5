"""How often a nominal 95 % interval holds the true difference: ours against a bootstrap percentile interval.

python benchmarks/interval_coverage.py [--draws 600] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from oblong.evaluation.statistics import bootstrap_difference
from oblong.records import DocumentScore

Array = NDArray[np.float64]
TRUE_DIFFERENCE = 0.02
NUM_RESAMPLES = 600
LEVEL = 3.0  # loss before; large enough that no document's loss is negative


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Standard deviations of the difference, nats per token: between documents, between seeds, and of their mix."""

    num_seeds: int
    num_documents: int
    documents: float
    seeds: float
    mix: float
    skewed: bool = False


SETTINGS = (
    *(
        Setting(num_seeds=1, num_documents=number, documents=0.02, seeds=0, mix=0, skewed=skewed)
        for number in (3, 5, 8, 20, 60)
        for skewed in (False, True)
    ),
    *(
        Setting(num_seeds=seeds, num_documents=60, documents=documents, seeds=spread, mix=mix)
        for seeds in (3, 5)
        for documents, spread, mix in ((0.02, 0.0, 0.01), (0.02, 0.005, 0.005), (0.005, 0.02, 0.0))
    ),
)


def draw(setting: Setting, generator: np.random.Generator) -> tuple[Array, Array]:
    """Differences of NLL (seeds x documents, nats) and tokens (documents)."""
    shape = (setting.num_seeds, setting.num_documents)
    tokens = generator.integers(100, 600, setting.num_documents).astype(np.float64)
    by_document = generator.exponential(size=shape[1]) - 1 if setting.skewed else generator.normal(size=shape[1])
    spread = setting.documents * by_document + setting.seeds * generator.normal(size=(shape[0], 1))
    return (TRUE_DIFFERENCE + spread + setting.mix * generator.normal(size=shape)) * tokens, tokens


def compute_ours(nll: Array, tokens: Array, generator: np.random.Generator) -> tuple[float, float]:
    """The interval of `bootstrap_difference`."""
    before = LEVEL * tokens
    interval = bootstrap_difference(
        [to_scores(before + row, tokens) for row in nll],
        to_scores(before, tokens),
        seed=int(generator.integers(1 << 31)),
        num_resamples=NUM_RESAMPLES,
    )
    return interval.low, interval.high


def compute_percentile(nll: Array, tokens: Array, generator: np.random.Generator) -> tuple[float, float]:
    """Documents and seeds resampled; the tail probability expanded for few documents (Hesterberg 2015)."""
    num_seeds, number = nll.shape
    counts = generator.multinomial(number, np.full(number, 1 / number), size=NUM_RESAMPLES)
    ratios = (counts @ nll.T) / (counts @ tokens)[:, np.newaxis]
    if num_seeds >= 3:
        drawn = generator.multinomial(num_seeds - 1, np.full(num_seeds, 1 / num_seeds), size=NUM_RESAMPLES)
        statistics = (ratios * drawn).sum(axis=1) / (num_seeds - 1)
    else:
        statistics = ratios.mean(axis=1)
    tail = float(ndtr(math.sqrt(number / (number - 1)) * stdtrit(number - 1, 0.025)))
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return float(low), float(high)


def to_scores(nll: Array, tokens: Array) -> list[DocumentScore]:
    """Records of one evaluation."""
    return [
        DocumentScore(nll=float(value), num_tokens=int(number), num_bytes=1)
        for value, number in zip(nll, tokens, strict=True)
    ]


METHODS: dict[str, Callable[[Array, Array, np.random.Generator], tuple[float, float]]] = {
    "ours": compute_ours,
    "percentile": compute_percentile,
}


def measure(setting: Setting, draws: int) -> dict[str, float]:
    """Share of intervals that hold the truth, both methods on the same draws."""
    generator = np.random.default_rng(0)
    hits = dict.fromkeys(METHODS, 0)
    for _ in range(draws):
        nll, tokens = draw(setting, generator)
        for name, compute in METHODS.items():
            low, high = compute(nll, tokens, generator)
            hits[name] += low <= TRUE_DIFFERENCE <= high
    return {name: number / draws for name, number in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=600)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [{**asdict(setting), **measure(setting, options.draws)} for setting in SETTINGS]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps({"draws": options.draws, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
