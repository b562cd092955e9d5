"""The generated matrices of `scan_trust`: every conditioning, shape, scale and storage, with the truth of each.

The truth is that of the matrix *as stored*: rounding to float16 changes kappa, and that is not an error of ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import hadamard

from benchmarks.certified_svd import EXTENDED_EPSILON, Truth, compute_truth
from tests.matrix_oracles import PROFILES, make_exact

Array = NDArray[np.float64]
Stored = NDArray[np.floating[Any]]

MAX_LOG_KAPPA: Final = 12.0
WELL_CONDITIONED: Final = 1e3
DECIDABLE: Final = 4e12
"""Rounding can make a matrix singular, or nearly: beyond this kappa its rank would be a matter of the cut-off, so it is
drawn again, rounder."""

MAX_CERTIFIED_SIDE: Final = 96
"""Short side up to which ill-conditioned matrices are certified by extended arithmetic; larger ones are constructed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A format: explicit mantissa bits, and the sizes that the largest element of a matrix may have in it."""

    mantissa_bits: int
    smallest: float
    largest: float

    def draw_size(self, rng: np.random.Generator) -> float:
        """Log-uniform between the two."""
        return math.exp(rng.uniform(math.log(self.smallest), math.log(self.largest)))


STORAGES: Final[Mapping[str, Storage]] = {
    "float64": Storage(mantissa_bits=52, smallest=1e-30, largest=1e30),
    "float32": Storage(mantissa_bits=23, smallest=1e-30, largest=1e30),
    "bfloat16": Storage(mantissa_bits=7, smallest=1e-30, largest=1e30),
    "float16": Storage(mantissa_bits=10, smallest=1e-2, largest=6e4),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A matrix (m, n) as stored, and the truth about its non-zero singular values."""

    kind: str
    storage: str
    stored: Stored
    truth: Truth

    @property
    def rank(self) -> int:
        """Number of singular values that are not exactly zero."""
        return int(self.truth.values.size)

    def sharpen(self) -> Truth:
        """The truth without the shortcut that large, well-conditioned matrices take."""
        is_certified = self.kind in ("rotated", "graded")
        return compute_truth(normalise(self.stored), always_extended=True) if is_certified else self.truth


def iter_cases(count: int, seed: int) -> Iterator[Case]:
    """The same cases for the same seed, one generator each, so that any of them can be made again alone."""
    for index in range(count):
        yield make_case(np.random.default_rng([seed, index]))


def make_case(rng: np.random.Generator) -> Case:
    """One case: a quarter large and well-conditioned, an eighth rank-deficient, the rest of any kappa."""
    storage = str(rng.choice(list(STORAGES)))
    if rng.random() < 0.25:
        kappa = math.exp(rng.uniform(0.0, math.log(WELL_CONDITIONED)))
        return make_rotated(rng, storage, draw_shape(rng, (128, 512), 1024), kappa)
    kappa = 10.0 ** rng.uniform(0.0, MAX_LOG_KAPPA)
    kind = str(rng.choice(list(KINDS), p=[0.3, 0.25, 0.15, 0.15, 0.15]))
    sides = (1, 32) if rng.random() < 0.4 else (33, MAX_CERTIFIED_SIDE)
    return KINDS[kind](rng, storage, draw_shape(rng, sides, 400), kappa)


def draw_shape(rng: np.random.Generator, short: tuple[int, int], longest: int) -> tuple[int, int]:
    """Tall (q, p): a third of them square, the others log-uniform in both sides."""
    p = round(math.exp(rng.uniform(math.log(short[0]), math.log(short[1]))))
    q = p if rng.random() < 1 / 3 else round(math.exp(rng.uniform(math.log(p), math.log(longest))))
    return q, p


def make_rotated(rng: np.random.Generator, storage: str, shape: tuple[int, int], kappa: float) -> Case:
    """U diag(s) V^T with random U and V; rounding to the storage puts a floor under s_r."""
    q, p = shape
    left, right = (np.linalg.qr(rng.standard_normal((side, p)))[0] for side in (q, p))
    values = (left * draw_values(rng, p, kappa)) @ right.T
    stored = store(values, storage, STORAGES[storage].draw_size(rng))
    truth = compute_truth(normalise(stored))
    if truth.kappa > DECIDABLE:
        return make_rotated(rng, storage, shape, math.sqrt(kappa))
    return finish(rng, "rotated", storage, stored, truth)


def make_graded(rng: np.random.Generator, storage: str, shape: tuple[int, int], kappa: float) -> Case:
    """Columns of lengths that differ by up to kappa: ill-conditioned in every storage."""
    q, p = shape
    # The short columns, too, must be normal numbers: float16 has five decades, float32 and bfloat16 seventy.
    kappa, smallest = (min(kappa, 1e5), 1e4) if storage == "float16" else (kappa, 1e-20)
    columns = rng.standard_normal((q, p)) * np.geomspace(1.0, 1 / kappa, p)[rng.permutation(p)]
    stored = store(columns, storage, max(STORAGES[storage].draw_size(rng), smallest))
    return finish(rng, "graded", storage, stored, compute_truth(normalise(stored)))


def make_hadamard(rng: np.random.Generator, storage: str, shape: tuple[int, int], kappa: float) -> Case:
    """Integers with an exactly known spectrum, short side up to 512; only as much kappa as the storage can hold."""
    p = 2 ** int(rng.integers(2, 10))
    q = p * 2 ** int(rng.integers(0, 2))
    capacity = 2.0 ** STORAGES[storage].mantissa_bits
    if capacity < 4 * p:
        return make_triangular(rng, storage, shape, kappa)
    integers, values = make_exact(q, p, draw_values(rng, p, min(kappa, capacity / (2 * p))), int(rng.integers(1 << 30)))
    exact = np.rint(values / math.sqrt(p * q)).astype(np.longdouble)
    truth = Truth(values=exact * np.sqrt(np.longdouble(p * q)), kappa_error=4 * EXTENDED_EPSILON)
    return finish(rng, "hadamard", storage, store_exactly(rng, integers, storage), truth)


def make_triangular(rng: np.random.Generator, storage: str, shape: tuple[int, int], kappa: float) -> Case:
    """H (x) L: L has ones on the diagonal and -1 below, so kappa of about k 2^k; H is a Hadamard matrix's columns.

    Only 0 and +-1, hence exact in every storage; every singular value of L comes as often as H has columns.
    """
    size = max(2, round(math.log2(max(kappa, 2.0) / max(math.log2(max(kappa, 2.0)), 1.0))))
    lower = np.eye(size) - np.tril(np.ones((size, size)), -1)
    columns = int(rng.choice([1, 2, 4, 8]))
    signs = hadamard(16)[:, :columns].astype(np.float64) if rng.random() < 0.5 else hadamard(columns) * 1.0
    truth = compute_truth(lower)
    repeated = replace(truth, values=np.repeat(truth.values, columns))
    return finish(rng, "triangular", storage, store_exactly(rng, np.kron(signs, lower), storage), repeated)


def make_deficient(rng: np.random.Generator, storage: str, shape: tuple[int, int], kappa: float) -> Case:
    """Dead rows, dead columns, and columns that are a power of two times another: zero singular values, exactly.

    With A the columns that are their own and D = diag(1 + sum of the squared factors of its copies), W W^T = A D A^T:
    the non-zero singular values are those of A D^(1/2), which extended arithmetic knows.
    """
    q, p = max(shape[0], 3), max(shape[1], 2)
    full = (make_rotated if rng.random() < 0.5 else make_graded)(rng, storage, (q, p), kappa)
    own = full.stored if full.stored.shape[0] >= full.stored.shape[1] else full.stored.T
    originals = rng.integers(0, p, int(rng.integers(0, 4)))
    factors = rng.choice([-1.0, 0.5, 1.0, -0.25], originals.size)
    copies = own[:, originals] * factors.astype(own.dtype)
    dead = np.zeros((q, int(rng.integers(0 if originals.size else 1, 3))), dtype=own.dtype)
    columns = np.concatenate((own, copies, dead), axis=1)[:, rng.permutation(p + originals.size + dead.shape[1])]
    rows = np.concatenate((columns, np.zeros((columns.shape[1], columns.shape[1]), dtype=own.dtype)))  # still tall
    lengths = np.ones(p, dtype=np.longdouble)
    np.add.at(lengths, originals, np.square(factors))
    truth = compute_truth(normalise(own).astype(np.longdouble) * np.sqrt(lengths), always_extended=True)
    return finish(rng, "deficient", storage, rows[rng.permutation(len(rows))], truth)


KINDS: Final[Mapping[str, Callable[[np.random.Generator, str, tuple[int, int], float], Case]]] = {
    "rotated": make_rotated,
    "graded": make_graded,
    "hadamard": make_hadamard,
    "triangular": make_triangular,
    "deficient": make_deficient,
}


def draw_values(rng: np.random.Generator, p: int, kappa: float) -> Array:
    """Descending singular values from kappa to 1, in one of the shapes of spectrum."""
    names = [name for name in PROFILES if p >= 4 or name == "geometric"]
    values = PROFILES[str(rng.choice(names))](p, max(kappa, 1.0))
    return np.sort(np.maximum(values, 1.0))[::-1]


def store(values: Array, storage: str, size: float) -> Stored:
    """Scaled so that the largest element is `size`, and rounded; bfloat16 comes as float32, as a reader gives it."""
    return convert(values * (size / float(np.abs(values).max())), storage)


def store_exactly(rng: np.random.Generator, integers: Array, storage: str) -> Stored:
    """Times a power of two, without any rounding."""
    room = 4 if storage == "float16" else 80
    scaled = np.ldexp(integers, int(rng.integers(-room, room + 1)))
    stored = convert(scaled, storage)
    assert (stored.astype(np.float64) == scaled).all()
    return stored


def convert(values: Array, storage: str) -> Stored:
    """Round to nearest."""
    if storage == "bfloat16":
        rounded: Stored = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
        return rounded
    return values.astype(storage)


def normalise(stored: Stored) -> Array:
    """float64, times the power of two that brings the largest element near 1."""
    values = stored.astype(np.float64)
    return np.ldexp(values, -math.frexp(float(np.abs(values).max()))[1])


def finish(rng: np.random.Generator, kind: str, storage: str, stored: Stored, truth: Truth) -> Case:
    """Half of the cases lie on their side."""
    turned = np.ascontiguousarray(stored.T) if rng.random() < 0.5 else stored
    return Case(kind=kind, storage=storage, stored=turned, truth=truth)
