"""Criteria of other tools that need every singular value of a matrix, not only the ends.

Each is a pure function of the singular values and the shape. Where the published code and its formula differ, the
code's rule is here under its own name, and the formula's beside it.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from oblong.errors import MissingExtraError, SelectionError
from oblong.records import Scan, Unit

if TYPE_CHECKING:
    from oblong.records.packed_spectrum import FloatArray

NORMAL_IQR: Final = 1.349  # interquartile range of the standard normal law, as Spectrum rounds it
MIN_TAIL: Final = 2  # a power law through one eigenvalue is none
NUM_CACHED_FITS: Final = 1024  # a Plan and its controls rank the same tensors

Compute = Callable[["FloatArray", tuple[int, int]], float | None]


def compute_snr(values: FloatArray, shape: tuple[int, int]) -> float:
    """Spectrum's signal-to-noise ratio, exactly as its code computes it.

    threshold = IQR(s) / 1.349 * (1 + sqrt(b)),   snr = (sum of s_i > threshold / sum of the others) / s_1

    Without any singular value at or below the threshold the lower sum is replaced by 1. (Before April 2025 the ratio
    was then infinite, as in most of the published tables.) The threshold lacks the factor sqrt(n) that the
    Marchenko-Pastur edge has, so most of a purely random matrix counts as signal, and dividing by s_1 makes the ratio
    depend on the matrix' scale. Spectrum trains the *highest* of each kind of tensor.

    Args:
        values: shape (min(m, n),), all singular values, descending.
        shape: (m, n).

    Source: Hartford et al. 2024, arXiv:2406.06623, section 3; QuixiAI/spectrum, spectrum.py (commit 1996495).
    """
    upper, lower = np.quantile(values, (0.75, 0.25))
    threshold = float(upper - lower) / NORMAL_IQR * (1 + math.sqrt(min(shape) / max(shape)))
    return _compute_ratio(values, threshold)


def compute_snr_sqrt_n(values: FloatArray, shape: tuple[int, int]) -> float:
    """Spectrum's ratio above the Marchenko-Pastur edge, which is the threshold that its paper means.

    threshold = v sqrt(n) (1 + sqrt(b)) = v (sqrt(m) + sqrt(n)),   v = ||W||_F / sqrt(m n),   b = m / n <= 1

    sqrt(n) belongs to the standard deviation v of the *elements*. Spectrum's IQR(s) / 1.349 is no estimate of that (it
    is of the order of sqrt(n) v already), and with the factor put before it no singular value of a real model's
    matrix is left above the threshold; so v is taken from the Frobenius norm. A tensor without signal has 0.

    Args:
        values: shape (min(m, n),), all singular values, descending.
        shape: (m, n).

    Source: Marchenko & Pastur 1967; Hartford et al. 2024, arXiv:2406.06623, section 3, with another v.
    """
    deviation = float(np.linalg.norm(values)) / math.sqrt(math.prod(shape))
    return _compute_ratio(values, deviation * (math.sqrt(shape[0]) + math.sqrt(shape[1])))


def compute_alpha(values: FloatArray, shape: tuple[int, int]) -> float | None:
    """WeightWatcher's alpha: exponent of the power law in the upper tail of the eigenvalues s_i^2, by its own library.

    p(x) ~ x^-alpha for x >= x_min,   alpha = 1 + N / sum ln(x_i / x_min),   x_min of the least Kolmogorov distance

    Two to six is called well trained, larger under-trained. A matrix with fewer than two eigenvalues above the
    library's threshold has none.

    Args:
        values: shape (min(m, n),), all singular values, descending.
        shape: (m, n); alpha does not depend on it.

    Raises:
        MissingExtraError: weightwatcher is not installed.

    Source: Martin & Mahoney 2021, JMLR 22(165); weightwatcher, WW_powerlaw.pl_fit; Clauset et al. 2009.
    """
    return _fit_alpha(values.tobytes())


def read_spectral(compute: Compute) -> Callable[[Scan, Unit, int], float | None]:
    """A criterion that is a function of a unit's singular values; units without measures have no value."""

    def read(scan: Scan, unit: Unit, seed: int) -> float | None:
        if unit.measures is None or unit.matrix_shape is None:
            return None
        return compute(scan.singular_values(unit.name), unit.matrix_shape)

    return read


def check_spectrum(scan: Scan, criterion: str) -> None:
    """Refuse a Scan without singular values before anything is ranked by them.

    Raises:
        SelectionError: saying how to scan.
    """
    missing = [unit.name for unit in scan.measured if unit.spectrum_digest is None]
    if missing:
        raise SelectionError(
            f"{criterion} needs every singular value, but this Scan has only the ends of {len(missing)} spectra, such"
            f" as that of {missing[0]}: scan again with `oblong scan {scan.header.model} --spectrum full --force -o"
            " FILE`"
        )


def _compute_ratio(values: FloatArray, threshold: float) -> float:
    """Sum of what is above the threshold over the sum of the rest (or 1 where there is none), over s_1."""
    is_signal = values > threshold
    noise = 1.0 if is_signal.all() else float(values[~is_signal].sum())
    return float(values[is_signal].sum()) / noise / float(values[0])


@lru_cache(maxsize=NUM_CACHED_FITS)
def _fit_alpha(data: bytes) -> float | None:
    library, min_eigenvalue = _import_weightwatcher()
    eigenvalues = np.square(np.frombuffer(data, dtype=np.float64))
    tail = eigenvalues[eigenvalues > min_eigenvalue]
    if len(tail) < MIN_TAIL:
        return None
    # It prints a line for each small matrix, and divides by zero where eigenvalues repeat.
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        alpha = float(library.pl_fit(data=tail).alpha)
    return alpha if math.isfinite(alpha) else None


def _import_weightwatcher() -> tuple[Any, float]:
    """The library's power-law module and its smallest eigenvalue, without what it does to warnings and the terminal."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            from weightwatcher import WW_powerlaw, constants
    except ImportError as error:
        raise MissingExtraError("the criterion alpha", "bench") from error
    return WW_powerlaw, float(constants.EVALS_THRESH)
