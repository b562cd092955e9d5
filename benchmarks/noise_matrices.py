"""The unrounded weights of `scan_noise`: the spectra and the distributions that real weights have, and worse ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tests.matrix_oracles import PROFILES, make_prescribed

Array = NDArray[np.float64]

SHAPES: Final = ((128, 128), (64, 256), (512, 128), (128, 1024), (384, 384), (576, 256), (256, 768))
RMS: Final = 0.02


def make_gaussian(rng: np.random.Generator, m: int, n: int) -> Array:
    """Independent entries."""
    return rng.standard_normal((m, n))


def make_heavy_tailed(rng: np.random.Generator, m: int, n: int) -> Array:
    """Student's t with 3 to 6 degrees of freedom."""
    return rng.standard_t(float(rng.uniform(3.0, 6.0)), (m, n))


def make_low_rank(rng: np.random.Generator, m: int, n: int) -> Array:
    """A strong part of low rank, and Gaussian noise below it, from 1e-4 to 1 of its size."""
    rank = int(rng.integers(1, min(m, n) // 4))
    strong = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n)) / math.sqrt(rank)
    noise: Array = 10.0 ** rng.uniform(-4.0, 0.0) * rng.standard_normal((m, n))
    return strong + noise


def make_planted(rng: np.random.Generator, m: int, n: int) -> Array:
    """Prescribed singular values, kappa 3 to 1e5."""
    kappa = math.exp(rng.uniform(math.log(3.0), math.log(1e5)))
    profile = PROFILES[str(rng.choice(list(PROFILES)))]
    return make_prescribed(m, n, np.maximum(profile(min(m, n), kappa), 1.0), int(rng.integers(1 << 30)))


def make_outlier_channels(rng: np.random.Generator, m: int, n: int) -> Array:
    """Rows and columns of very different size, a few of them 10 to 30 times larger: the outliers of language models."""
    rows, columns = np.exp(rng.normal(0, 0.3, m)), np.exp(rng.normal(0, 0.3, n))
    columns[rng.choice(n, 3, replace=False)] *= rng.uniform(10, 30, 3)
    rows[rng.choice(m, 3, replace=False)] *= rng.uniform(3, 10, 3)
    return rng.standard_normal((m, n)) * rows[:, None] * columns


KINDS: Final[Mapping[str, Callable[[np.random.Generator, int, int], Array]]] = {
    "Gaussian": make_gaussian,
    "heavy-tailed": make_heavy_tailed,
    "low rank and noise": make_low_rank,
    "planted": make_planted,
    "outlier channels": make_outlier_channels,
}


def iter_matrices(count: int, seed: int) -> Iterator[tuple[str, Array]]:
    """(kind, weights of rms 0.02), kinds and shapes in turn."""
    kinds = list(KINDS)
    for index in range(count):
        kind = kinds[index % len(kinds)]
        m, n = SHAPES[index // len(kinds) % len(SHAPES)]
        values = KINDS[kind](np.random.default_rng([seed, index]), m, n)
        yield kind, values * (RMS / math.sqrt(float(np.mean(values * values))))
