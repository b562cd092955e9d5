"""One matrix in, one Spectrum out: chooses the route, and returns to the unit of the matrix."""

from __future__ import annotations

import math
import sys
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from oblong.spectra.gram_route import GramResult, measure_by_gram
from oblong.spectra.mixed_route import is_promising, measure_by_mixed
from oblong.spectra.operators import Matrix
from oblong.spectra.rounding import combine
from oblong.spectra.spectrum import Method, Outcome, Spectrum
from oblong.spectra.svd_route import SvdResult, measure_by_svd
from oblong.spectra.tall import TallMatrix
from oblong.spectra.workspace import Workspace

DEFAULT_TOLERANCE: Final = 1e-7


class Precision(StrEnum):
    """Which arithmetic may be used; the error bound of the result is the same."""

    AUTO = "auto"
    FLOAT64 = "float64"


SMALL: Final = 32
"""Up to this short side LAPACK's SVD is as fast as the Gram route."""

LN_2: Final = math.log(2.0)


def compute_spectrum(
    matrix: NDArray[Any],
    *,
    full: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
    precision: Precision = Precision.AUTO,
    workspace: Workspace | None = None,
) -> Spectrum:
    """Measure the singular values of one matrix.

    kappa = s_1 / s_r and log_volume = sum ln s_i, with what goes along. kappa(2^k W) has the bits of kappa(W).

    Args:
        matrix: Shape (m, n), both at least 1; float16, float32 or float64; any strides. Not changed.
        full: Whether to return all singular values (several times slower).
        tolerance: Relative error of kappa at which the iterations stop. Rounding may leave more: `kappa_error` says.
        precision: Whether float32 may do the heavy part where float64 can check it (mixed_route.py).
        workspace: Memory of this thread to use again, for many matrices.

    Returns:
        The Spectrum; an impossible matrix (zero, NaN) is an outcome, not an exception.

    Raises:
        ValueError: `matrix` is not a non-empty matrix of floating-point numbers.

    Source: Ludwig 2025, Eq. 1 and 8. We also name the value over *all* singular values, `kappa_full`.
    """
    shape = check_matrix(matrix)
    largest = max(float(matrix.max()), -float(matrix.min()))
    if not math.isfinite(largest):
        return Spectrum(outcome=Outcome.NON_FINITE, shape=shape)
    if largest == 0.0:
        return Spectrum(outcome=Outcome.ZERO, shape=shape)
    tall = TallMatrix(matrix, largest, workspace or Workspace())
    if precision is Precision.AUTO and not full and is_promising(tall):
        found = measure_by_mixed(tall, tolerance=tolerance)
        if found is not None:
            return from_gram(found, shape, tall.exponent, Method.MIXED)
    return measure(tall, shape, full=full, tolerance=tolerance)


def check_matrix(matrix: NDArray[Any]) -> tuple[int, int]:
    """The shape of a non-empty matrix of floats.

    Raises:
        ValueError: It is something else.
    """
    if matrix.ndim != 2 or matrix.size == 0 or not np.issubdtype(matrix.dtype, np.floating):
        raise ValueError(f"need a non-empty matrix of floats, not {matrix.dtype} of shape {matrix.shape}")
    return matrix.shape[0], matrix.shape[1]


def measure(matrix: Matrix, shape: tuple[int, int], *, full: bool, tolerance: float) -> Spectrum:
    """Measure a scaled matrix that is neither zero nor infinite.

    Args:
        matrix: The matrix, on whatever machine.
        shape: (m, n) before it was stood upright.
        full: See `compute_spectrum`.
        tolerance: See `compute_spectrum`.
    """
    if matrix.num_columns > SMALL:
        found = measure_by_gram(matrix, full=full, tolerance=tolerance)
        if found is not None:
            return from_gram(found, shape, matrix.exponent, Method.GRAM)
    decomposed = measure_by_svd(matrix.to_array())
    if decomposed is None:
        return Spectrum(outcome=Outcome.NOT_CONVERGED, shape=shape)
    return from_svd(decomposed, shape, matrix.exponent)


def fits_float64(frobenius_norm: float, exponent: int) -> bool:
    """Whether 2^exponent times the largest length of a spectrum is finite."""
    return math.frexp(frobenius_norm)[1] + exponent <= sys.float_info.max_exp


def from_gram(found: GramResult, shape: tuple[int, int], exponent: int, method: Method) -> Spectrum:
    """What a Gram route found, in the unit of the matrix."""
    if not fits_float64(found.frobenius_norm, exponent):
        return Spectrum(outcome=Outcome.NOT_CONVERGED, shape=shape)
    rank = min(shape)
    kappa = found.sigma_max / found.sigma_min
    return Spectrum(
        outcome=Outcome.OK,
        shape=shape,
        method=method,
        rank=rank,
        sigma_max=math.ldexp(found.sigma_max, exponent),
        sigma_min=math.ldexp(found.sigma_min, exponent),
        kappa=kappa,
        kappa_full=kappa,
        kappa_error=found.kappa_error,
        log_volume=found.log_volume + rank * exponent * LN_2,
        log_volume_error=found.log_volume_error,
        frobenius_norm=math.ldexp(found.frobenius_norm, exponent),
        participation_ratio=found.participation_ratio,
        singular_values=None if found.singular_values is None else np.ldexp(found.singular_values, exponent),
    )


def from_svd(decomposed: SvdResult, shape: tuple[int, int], exponent: int) -> Spectrum:
    """What the decomposition found, in the unit of the matrix."""
    squares = decomposed.singular_values**2
    frobenius_norm = math.sqrt(squares.sum())
    if not fits_float64(frobenius_norm, exponent):
        return Spectrum(outcome=Outcome.NOT_CONVERGED, shape=shape)
    values, rank = decomposed.singular_values, decomposed.rank
    is_full = rank == values.size
    kappa = float(values[0] / values[rank - 1])
    error = decomposed.error / float(values[0])
    return Spectrum(
        outcome=Outcome.OK if is_full else Outcome.RANK_DEFICIENT,
        shape=shape,
        method=Method.SVD,
        rank=rank,
        sigma_max=math.ldexp(float(values[0]), exponent),
        sigma_min=math.ldexp(float(values[rank - 1]), exponent),
        kappa=kappa,
        kappa_full=kappa if is_full else None,
        kappa_error=combine(error, error * kappa),
        log_volume=float(np.log(values[:rank]).sum()) + rank * exponent * LN_2,
        log_volume_error=decomposed.error * float((1.0 / values[:rank]).sum()),
        frobenius_norm=math.ldexp(frobenius_norm, exponent),
        participation_ratio=float(squares.sum() ** 2 / (squares @ squares)),
        singular_values=np.ldexp(values, exponent),
    )
