"""Codes of a few bits, and what a grid of values takes away."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def unpack_bits(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Split words into codes: code i lies at the bits [i * bits, (i + 1) * bits) of the little-endian stream.

    Args:
        words: (..., k) little-endian integers, C-contiguous along the last dimension.
        bits: per code, 1 to 8; the codes of 3, 5, 6 or 7 bits may cross the boundary of two words.

    Returns:
        (..., bits in a row of words // bits) uint8.
    """
    stored = np.ascontiguousarray(words).view(np.uint8)
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes: NDArray[np.uint8] = (stored[..., None] >> shifts) & np.uint8((1 << bits) - 1)
        return codes.reshape(*stored.shape[:-1], -1)
    stream = np.unpackbits(stored, axis=-1, bitorder="little")
    whole = stream.shape[-1] // bits * bits
    digits = stream[..., :whole].reshape(*stored.shape[:-1], -1, bits)
    places = (1 << np.arange(bits)).astype(np.uint8)
    return np.asarray((digits * places).sum(axis=-1, dtype=np.uint8))


def unpack_padded_words(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """Split 32-bit words that each hold 32 // bits codes, the lowest bits first; the bits that are left over are none.

    Returns:
        (..., k * (32 // bits)) uint8 for words of (..., k).
    """
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    codes = (np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(*words.shape[:-1], -1)


def compute_cell_variance(grid: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean squared rounding error of a weight that was rounded to each value of a grid.

    A weight is taken as uniform between the midpoints (a, b) to the neighbours of its value v, so that the mean of
    (w - v)^2 is ((b - v)^3 + (v - a)^3) / (3 (b - a)). The outermost values end their cells: a block's largest weight
    is represented exactly.

    Args:
        grid: (g,) values by code; a value may occur twice (both zeros of FP4).

    Returns:
        (g,) float64, in the square of the grid's unit.
    """
    values, codes = np.unique(np.asarray(grid, dtype=np.float64), return_inverse=True)
    if len(values) < 2:
        return np.zeros(len(grid))
    middles = (values[1:] + values[:-1]) / 2
    below = values - np.concatenate(([values[0]], middles))
    above = np.concatenate((middles, [values[-1]])) - values
    variance: NDArray[np.float64] = (above**3 + below**3) / (3 * (above + below))
    return variance[codes.reshape(-1)]


def find_largest_rms(variances: NDArray[np.float64], widths: NDArray[Any] | None = None) -> tuple[float, float]:
    """rms(E) in the row and in the column where it is largest.

    Args:
        variances: (..., rows, groups) of the error of each weight; the columns of a group share it.
        widths: (groups,) columns of each; equal by default.
    """
    if not variances.size:
        return 0.0, 0.0
    row = np.average(variances, axis=-1, weights=widths).max()
    column = variances.mean(axis=-2).max()
    return math.sqrt(row), math.sqrt(column)
