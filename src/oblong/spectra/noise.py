"""How much of a spectrum is the rounding of the storage format.

A stored matrix is W + E, where E is what the format rounded away. Its spectral norm, about rms(E) (sqrt m + sqrt n) as
for any matrix of independent entries, bounds how far each singular value has moved (Weyl). Stored numbers are exact
as far as the arithmetic is concerned; the floor is about the weights that they stand for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from oblong.errors import UserError
from oblong.spectra.spectrum import Spectrum

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

MAX_OF_16: Final = 2.1
MAX_OF_32: Final = 2.4
MAX_OF_64: Final = 2.65
MAX_OF_ROW: Final = 3.5
RANGE_OF_16: Final = 3.5
RANGE_OF_32: Final = 4.1
"""Expected largest |w| and range of so many Gaussian weights, in their standard deviation; a row has about 1000."""

STEPS: Final[Mapping[str, float]] = {
    "I8": MAX_OF_ROW / 127,
    "Q8_0": MAX_OF_32 / 127,
    "Q8_1": MAX_OF_32 / 127,
    "Q8_K": MAX_OF_ROW / 127,
    "Q5_0": MAX_OF_32 / 16,
    "Q5_1": RANGE_OF_32 / 31,
    "Q4_0": MAX_OF_32 / 8,
    "Q4_1": RANGE_OF_32 / 15,
    "Q6_K": MAX_OF_16 / 32,
    "Q5_K": RANGE_OF_32 / 31,
    "Q4_K": RANGE_OF_32 / 15,
    "Q3_K": MAX_OF_16 / 4,
    "Q2_K": RANGE_OF_16 / 3,
    "IQ4_NL": 2 * MAX_OF_32 / 15,
    "IQ4_XS": 2 * MAX_OF_32 / 15,
    "NF4": 2 * MAX_OF_64 / 15,
    "FP4": 2 * MAX_OF_64 / 15,
    "MXFP4": 2 * MAX_OF_32 / 15,
    "I4": RANGE_OF_32 / 15,
}
"""Width of a quantisation step in units of rms(W). Approximate: it takes blocks for Gaussian and non-uniform grids for
uniform ones, and leaves out the rounding of the block scales themselves. Good to some ten per cent, which is enough
to tell whether a singular value stands above the floor."""


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


def compute_noise_floor(spectrum: Spectrum, storage: str, *, rounding_rms: float | None = None) -> float:
    """Spectral norm of the rounding error of a stored matrix: rms(E) (sqrt m + sqrt n).

    A rounding error is uniform within a step d and has the variance d^2 / 12.

    Args:
        spectrum: A measured spectrum of the stored matrix.
        storage: Storage format: a safetensors dtype (BF16), a GGUF type (Q4_K) or NF4, MXFP4.
        rounding_rms: rms(E), in the unit of the matrix, where the quantiser's scales tell it; `storage` is not asked.

    Returns:
        The floor, in the unit of the matrix.

    Raises:
        UserError: Unknown storage format.
        ValueError: The spectrum holds no numbers.
    """
    if spectrum.frobenius_norm is None:
        raise ValueError(f"a spectrum whose outcome is {spectrum.outcome!r} has no noise floor")
    m, n = spectrum.shape
    if rounding_rms is None:
        rounding_rms = spectrum.frobenius_norm / math.sqrt(m * n) * compute_relative_rounding(storage)
    return rounding_rms * (math.sqrt(m) + math.sqrt(n))


def compute_relative_rounding(storage: str) -> float:
    """rms(E) / rms(W) of a storage format.

    Raises:
        UserError: Unknown storage format.
    """
    key = storage.upper()
    if key.startswith(("F8_E4M3", "F8_E5M2")):  # the variants FN, FNUZ differ in their largest values only
        key = key[:7]
    if key in MANTISSA_BITS:
        return math.ldexp(1.0, -MANTISSA_BITS[key]) / math.sqrt(12 * MEAN_SQUARE_IN_BINADE)
    if key in STEPS:
        return STEPS[key] / math.sqrt(12)
    if key in CODEBOOK_BITS:
        return CODEBOOK_LOSS * math.pow(2.0, -CODEBOOK_BITS[key])
    known = ", ".join((*MANTISSA_BITS, *STEPS, *CODEBOOK_BITS))
    raise UserError(f"the rounding of the storage format {storage!r} is not known; known are {known}")


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
