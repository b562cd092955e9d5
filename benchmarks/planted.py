"""Matrices whose singular values are known exactly although they are stored in bfloat16.

W = 2^k P (A kron B) Q with small A and B whose entries have four significant bits. Every entry of W is a product of two
such numbers, so it has at most eight and is exact in bfloat16; P and Q permute and flip signs, so they are orthogonal;
the singular values of A kron B are the products s_i(A) s_j(B). Those of A and B come from LAPACK in float64: their
smallest ones are right to about kappa(A) * 1e-15.

    kappa(W)      = kappa(A) kappa(B)
    log_volume(W) = q sum ln s_i(A) + p sum ln s_j(B) + p q k ln 2      (p and q: the short sides of A and B)

A and B are Gaussian matrices whose spectrum was stretched to a prescribed condition number and then rounded; so the
spectrum of W is wide, irregular and has no gap, and the truth is that of the rounded factors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Factor = NDArray[np.float64]
SIGNIFICANT_BITS = 4
BLOCK_ROWS = 512
"""Rows that are made and written at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known of a planted matrix; `log_volume` in nats."""

    kappa: float
    log_volume: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A planted matrix as its factors: A, B, an exponent k, and row and column permutations with signs.

    `rows` has shape (m,) and `columns` (n,): places in A kron B. `row_signs` and `column_signs` are +1 or -1.
    """

    left: Factor
    right: Factor
    exponent: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    row_signs: NDArray[np.float32]
    column_signs: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.rows.size, self.columns.size

    def compute_truth(self) -> Truth:
        """Condition number and log-volume from the factors, in float64."""
        first, second = (np.linalg.svd(factor, compute_uv=False) for factor in (self.left, self.right))
        p, q = first.size, second.size
        log_volume = q * np.log(first).sum() + p * np.log(second).sum() + p * q * self.exponent * math.log(2.0)
        return Truth(kappa=float(first[0] / first[-1] * (second[0] / second[-1])), log_volume=float(log_volume))

    def iter_rows(self) -> Iterator[NDArray[np.uint16]]:
        """Yield W from top to bottom as blocks of rows of bfloat16 bits."""
        n = self.columns.size
        # Both factors spread over the columns once, so that a row of W is the product of two rows.
        left_columns, right_columns = np.divmod(self.columns, self.right.shape[1])
        scaled = np.ldexp(self.left, self.exponent).astype(np.float32)
        left = np.ascontiguousarray(scaled[:, left_columns])
        right = np.ascontiguousarray(self.right.astype(np.float32)[:, right_columns] * self.column_signs)
        lefts, rights = np.divmod(self.rows, self.right.shape[0])
        row = np.empty(n, dtype=np.float32)
        # bfloat16 is the upper half of a float32; the lower one is zero here.
        upper = row.view("<u2")[1::2]
        for start in range(0, self.rows.size, BLOCK_ROWS):
            block = np.empty((min(BLOCK_ROWS, self.rows.size - start), n), dtype=np.uint16)
            for index in range(block.shape[0]):
                place = start + index
                np.multiply(left[lefts[place]], right[rights[place]], out=row)
                np.bitwise_xor(upper, 0 if self.row_signs[place] > 0 else 0x8000, out=block[index])
            yield block

    def to_float32(self) -> NDArray[np.float32]:
        """W itself, for a benchmark that needs it in memory."""
        values = np.empty(self.shape, dtype=np.float32)
        start = 0
        for block in self.iter_rows():
            values[start : start + len(block)] = (block.astype(np.uint32) << 16).view(np.float32)
            start += len(block)
        return values


def plant(shape: tuple[int, int], kappa: float, generator: np.random.Generator, *, rms: float = 0.02) -> Planted:
    """Plan a matrix.

    Args:
        shape: (m, n).
        kappa: condition number to come near to; rounding the factors moves it.
        generator: decides everything else.
        rms: size of the entries to come near to.

    Raises:
        ValueError: the sides have no common kind of factors (a prime times a prime, say).
    """
    (m, n), (a, b) = shape, factor_shape(shape)
    left = make_factor(a, math.sqrt(kappa), generator)
    right = make_factor(b, math.sqrt(kappa), generator)
    size = float(np.sqrt(np.mean(left**2) * np.mean(right**2)))
    signs = np.array((-1.0, 1.0), dtype=np.float32)
    return Planted(
        left=left,
        right=right,
        exponent=round(math.log2(rms / size)),
        rows=generator.permutation(m),
        columns=generator.permutation(n),
        row_signs=generator.choice(signs, m),
        column_signs=generator.choice(signs, n),
    )


def factor_shape(shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of A and B, both wide or both tall, so that A kron B has full rank; as near to each other as possible.

    Raises:
        ValueError: there are none but the shape itself and 1 x 1.
    """
    (short, long), is_wide = sorted(shape), shape[0] <= shape[1]
    pairs = [
        (p, q)
        for p in list_divisors(short)
        for q in list_divisors(long)
        if p <= q and short // p <= long // q and 1 < p * q < short * long
    ]
    if not pairs:
        raise ValueError(f"{shape[0]} x {shape[1]} is no Kronecker product of smaller shapes")
    p, q = min(pairs, key=lambda pair: (abs(math.log(pair[0] ** 2 / short)), abs(math.log(pair[1] ** 2 / long))))
    first, second = (p, q), (short // p, long // q)
    return (first, second) if is_wide else (first[::-1], second[::-1])


def list_divisors(number: int) -> list[int]:
    """Divisors, ascending."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


def make_factor(shape: tuple[int, int], kappa: float, generator: np.random.Generator) -> Factor:
    """A full-rank matrix of numbers with four significant bits, its condition number near `kappa`."""
    left, values, right = np.linalg.svd(generator.standard_normal(shape), full_matrices=False)
    if values.size > 1:
        values = (values / values[0]) ** (math.log(kappa) / math.log(values[0] / values[-1]))
    mantissas, exponents = np.frexp(left * values @ right)
    rounded: Factor = np.ldexp(np.round(np.ldexp(mantissas, SIGNIFICANT_BITS)), exponents - SIGNIFICANT_BITS)
    return rounded
