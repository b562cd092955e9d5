"""What a storage format rounded away from the rows and columns of a matrix, told by the stored values alone.

A rounding error is uniform within a step d and has the variance d^2 / 12. Floating-point formats have steps in
proportion to each weight; integer formats one for a block of weights, which the largest of them decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from oblong.errors import UserError

RoundingRms = tuple[float, float]
"""Root mean square of the rounding error in the row where it is largest, and in the column where it is largest."""

MEAN_SQUARE_IN_BINADE: Final = 1.85
"""E[w^2] / E[4^e] with e = floor(log2 |w|): 1.84 to 1.86 for Gaussian and for heavy-tailed (Student, 4 degrees) weights
of any scale, by sampling."""

MANTISSA_BITS: Final[Mapping[str, int]] = {
    "F64": 52,
    "F32": 23,
    "F16": 10,
    "BF16": 7,
    "F8_E4M3": 3,
    "F8_E5M2": 2,
    "F4_E2M1": 1,
}
"""Explicit mantissa bits t: the spacing of numbers in [2^e, 2^(e+1)) is 2^(e-t)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGrid:
    """Weights of a row in blocks of `size`; the step is the block's largest |w|, or its range, over `levels`."""

    size: int
    levels: float
    spans_range: bool = False


GRIDS: Final[Mapping[str, BlockGrid]] = {
    "Q8_0": BlockGrid(size=32, levels=127),
    "Q8_1": BlockGrid(size=32, levels=127),
    "Q8_K": BlockGrid(size=256, levels=127),
    "Q6_K": BlockGrid(size=16, levels=32),
    "Q5_0": BlockGrid(size=32, levels=16),
    "Q5_1": BlockGrid(size=32, levels=31, spans_range=True),
    "Q5_K": BlockGrid(size=32, levels=31, spans_range=True),
    "Q4_0": BlockGrid(size=32, levels=8),
    "Q4_1": BlockGrid(size=32, levels=15, spans_range=True),
    "Q4_K": BlockGrid(size=32, levels=15, spans_range=True),
    "Q3_K": BlockGrid(size=16, levels=4),
    "Q2_K": BlockGrid(size=16, levels=3, spans_range=True),
    "IQ4_NL": BlockGrid(size=32, levels=7.5),
    "IQ4_XS": BlockGrid(size=32, levels=7.5),
    "MXFP4": BlockGrid(size=32, levels=7.5),
    "NF4": BlockGrid(size=64, levels=7.5),
    "FP4": BlockGrid(size=64, levels=7.5),
}
"""Formats whose scales are not at hand; values that are not evenly spaced count as if they were. How the scales were
rounded is left out."""

GAUSSIAN_STEPS: Final[Mapping[str, float]] = {"I8": 3.5 / 127, "I4": 4.1 / 15}
"""Step in units of rms(W) where nothing is known about blocks: the largest of about 1000 Gaussian weights of a row over
127, the range of 32 over 15."""

CODEBOOK_BITS: Final[Mapping[str, float]] = {
    "IQ1_S": 1.56,
    "IQ1_M": 1.75,
    "IQ2_XXS": 2.06,
    "IQ2_XS": 2.31,
    "IQ2_S": 2.5,
    "IQ3_XXS": 3.06,
    "IQ3_S": 3.44,
    "TQ1_0": 1.69,
    "TQ2_0": 2.06,
}
"""Bits per weight of formats that look whole groups of weights up in a codebook."""

CODEBOOK_LOSS: Final = 1.2
"""rms(E) / rms(W) is at least 2^-bits for Gaussian weights (rate distortion); real codebooks lose about this factor."""

Transform: TypeAlias = Callable[[NDArray[np.floating[Any]]], NDArray[np.floating[Any]]]

PANEL_ELEMENTS: Final = 512 * 1024
"""Rows are read in blocks of so many elements, which stay in the cache between the sums."""

SMALLEST_RMS: Final = 1e-12
"""Below, squares of single float32 weights may have vanished."""


def estimate_rounding(matrix: NDArray[np.floating[Any]], storage: str) -> RoundingRms:
    """The rounding error that a format left in a matrix that was stored in it.

    Args:
        matrix: Shape (m, n), float32 or float64, finite: the stored values.
        storage: Storage format: a safetensors dtype (BF16), a GGUF type (Q4_K) or NF4.

    Returns:
        In the unit of the matrix.

    Raises:
        UserError: Unknown storage format.
    """
    key = _normalise(storage)
    if key in GRIDS:
        return _estimate_in_blocks(matrix, GRIDS[key])
    return scale_rounding(storage, find_largest_rms(matrix))


def is_in_proportion(storage: str) -> bool:
    """Whether the rounding error of a format follows from the rms of rows and columns alone."""
    return _normalise(storage) not in GRIDS


def scale_rounding(storage: str, largest_rms: RoundingRms) -> RoundingRms:
    """The rounding error of such a format.

    Args:
        storage: See `estimate_rounding`.
        largest_rms: See `find_largest_rms`.

    Raises:
        UserError: Unknown storage format.
    """
    relative = _get_relative_rounding(_normalise(storage))
    return relative * largest_rms[0], relative * largest_rms[1]


def _normalise(storage: str) -> str:
    key = storage.upper()
    # The variants FN, FNUZ differ in their largest values only.
    return key[:7] if key.startswith(("F8_E4M3", "F8_E5M2")) else key


def _get_relative_rounding(key: str) -> float:
    """rms(E) / rms(W)."""
    if key in MANTISSA_BITS:
        return math.ldexp(1.0, -MANTISSA_BITS[key]) / math.sqrt(12 * MEAN_SQUARE_IN_BINADE)
    if key in GAUSSIAN_STEPS:
        return GAUSSIAN_STEPS[key] / math.sqrt(12)
    if key in CODEBOOK_BITS:
        return CODEBOOK_LOSS * math.pow(2.0, -CODEBOOK_BITS[key])
    known = ", ".join((*MANTISSA_BITS, *GRIDS, *GAUSSIAN_STEPS, *CODEBOOK_BITS))
    raise UserError(f"the rounding of the storage format {key!r} is not known; known are {known}")


def find_largest_rms(matrix: NDArray[np.floating[Any]]) -> RoundingRms:
    """Largest rms of a row, and of a column; in float32 for a float32 matrix, good to 1e-3."""
    return _find_largest_rms(matrix, lambda panel: panel)


def _estimate_in_blocks(matrix: NDArray[np.floating[Any]], grid: BlockGrid) -> RoundingRms:
    n = matrix.shape[1]
    size = grid.size if n % grid.size == 0 else n  # a part of a tensor may cut through its blocks

    def compute_errors(panel: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        blocks = panel.reshape(panel.shape[0], n // size, size)
        high, low = blocks.max(axis=2), blocks.min(axis=2)
        errors: NDArray[np.floating[Any]] = high - low if grid.spans_range else np.maximum(high, -low)
        errors /= grid.levels * math.sqrt(12)
        return errors

    return _find_largest_rms(matrix, compute_errors)


def _find_largest_rms(matrix: NDArray[np.floating[Any]], transform: Transform) -> RoundingRms:
    """Of a transformed matrix, read by blocks of rows: a very large one is not in memory."""
    rms = _try_largest_rms(matrix, transform, 0)
    if all(SMALLEST_RMS < value < math.inf for value in rms):
        return rms
    exponent = math.frexp(max(float(matrix.max()), -float(matrix.min())))[1]
    row, column = _try_largest_rms(matrix, transform, exponent)
    return math.ldexp(row, exponent), math.ldexp(column, exponent)


def _try_largest_rms(matrix: NDArray[np.floating[Any]], transform: Transform, exponent: int) -> RoundingRms:
    """The same in units of 2^exponent; infinite or zero if squares overflow or vanish."""
    num_rows = max(PANEL_ELEMENTS // matrix.shape[1], 1)
    largest_row, columns, width = 0.0, np.zeros(1), 1
    with np.errstate(over="ignore", under="ignore"):
        for start in range(0, matrix.shape[0], num_rows):
            panel = transform(matrix[start : start + num_rows])
            panel = panel if exponent == 0 else np.ldexp(panel, -exponent)
            width = panel.shape[1]
            largest_row = max(largest_row, float(np.einsum("ij,ij->i", panel, panel).max()))
            columns = columns + np.einsum("ij,ij->j", panel, panel)
    return math.sqrt(largest_row / width), math.sqrt(float(columns.max()) / matrix.shape[0])
