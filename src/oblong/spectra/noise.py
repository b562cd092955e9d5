"""How much of a spectrum is the rounding of the storage format.

A stored matrix is W + E, where E is what the format rounded away. Its spectral norm bounds how far each singular value
has moved (Weyl). Stored numbers are exact as far as the arithmetic is concerned; the floor is about the weights that
they stand for (design/004-noise-floor.md).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oblong.spectra.storage_rounding import RoundingRms, estimate_rounding


def compute_noise_floor(
    matrix: NDArray[np.floating[Any]], storage: str, *, rounding_rms: RoundingRms | None = None
) -> float:
    """Spectral norm of the rounding error E of a stored matrix: about max_i ||E_i.|| + max_j ||E_.j||.

    With equal variances everywhere that is rms(E) (sqrt m + sqrt n).

    Args:
        matrix: Shape (m, n), float32 or float64, finite: the stored values.
        storage: Storage format: a safetensors dtype (BF16), a GGUF type (Q4_K) or NF4, MXFP4.
        rounding_rms: rms of E in its worst row and in its worst column, in the unit of the matrix, where the scales of
            the quantiser tell it; `storage` is not asked.

    Returns:
        The floor, in the unit of the matrix.

    Raises:
        UserError: Unknown storage format.

    Source: Bandeira and van Handel 2016, theorem 1.1, for independent entries of unequal variance, without its
    logarithmic term.
    """
    m, n = matrix.shape
    in_row, in_column = rounding_rms or estimate_rounding(matrix, storage)
    return in_row * math.sqrt(n) + in_column * math.sqrt(m)


def bound_unrounded_kappa(
    sigma_max: float, sigma_min: float, noise_floor: float, *, is_singular: bool
) -> tuple[float, float | None]:
    """Interval of the condition number of the weights before they were rounded, by Weyl's inequality.

    [(s_1 - f) / (s_r + f), (s_1 + f) / (s_r - f)], and at least 1.

    Args:
        sigma_max: s_1 of the stored matrix.
        sigma_min: s_r of the stored matrix.
        noise_floor: f, in the same unit.
        is_singular: Whether the stored matrix has zero singular values besides.

    Returns:
        Lower and upper end; None where s_r may have been zero, or a stored zero may have been something.
    """
    low = max((sigma_max - noise_floor) / (sigma_min + noise_floor), 1.0)
    if sigma_min <= noise_floor or (is_singular and noise_floor > 0):
        return low, None
    return low, (sigma_max + noise_floor) / (sigma_min - noise_floor)
