"""The same measurements with the heavy operations on an accelerator that has float64; imports torch when called.

Only Gram matrix, factor, products and solves run there. The iterations are those of the CPU, on the same seeded
vectors, and a matrix that needs a singular value decomposition gets LAPACK's: results differ by rounding only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from oblong.errors import UserError
from oblong.spectra.compute import DEFAULT_TOLERANCE, check_matrix, measure
from oblong.spectra.spectrum import FloatArray, Outcome, Spectrum
from oblong.spectra.tall import choose_exponent

if TYPE_CHECKING:
    import torch


def compute_spectra_on(
    matrices: Sequence[NDArray[Any]], *, device: str, full: bool = False, tolerance: float = DEFAULT_TOLERANCE
) -> list[Spectrum]:
    """Measure several matrices on a torch device.

    Args:
        matrices: (m, n) arrays, float16, float32 or float64. Not changed.
        device: cuda, cuda:1, xpu or cpu (for tests).
        full: See `compute_spectrum`.
        tolerance: See `compute_spectrum`.

    Returns:
        One Spectrum per matrix, in order.

    Raises:
        UserError: The device has no float64 (mps).
        ValueError: See `compute_spectrum`.
    """
    if device.partition(":")[0] == "mps":
        raise UserError("Apple's mps has no float64, which condition numbers need: choose --device cpu")
    return [_compute_on(matrix, device, full=full, tolerance=tolerance) for matrix in matrices]


def _compute_on(matrix: NDArray[Any], device: str, *, full: bool, tolerance: float) -> Spectrum:
    import torch

    shape = check_matrix(matrix)
    weight = torch.from_numpy(np.ascontiguousarray(matrix)).to(device)
    largest = float(weight.abs().max())
    if not math.isfinite(largest):
        return Spectrum(outcome=Outcome.NON_FINITE, shape=shape)
    if largest == 0.0:
        return Spectrum(outcome=Outcome.ZERO, shape=shape)
    return measure(DeviceMatrix(weight, largest), shape, full=full, tolerance=tolerance)


class DeviceMatrix:
    """Implements `operators.Matrix` in device memory, where one float64 copy is affordable.

    Args:
        weight: Shape (m, n), floating point, finite, not all zero.
        largest: max |w_ij|.
    """

    def __init__(self, weight: torch.Tensor, largest: float) -> None:
        self.exponent = choose_exponent(largest)
        tall = weight if weight.shape[0] >= weight.shape[1] else weight.mT
        self.num_rows, self.num_columns = tall.shape
        self._values = tall.double() * math.ldexp(1.0, -self.exponent)

    def compute_gram(self) -> DeviceGram:
        """A^T A."""
        return DeviceGram(self._values.mT @ self._values)

    def multiply(self, block: FloatArray) -> FloatArray:
        """A B."""
        return _fetch(self._values @ _send(block, self._values))

    def multiply_transposed(self, block: FloatArray) -> FloatArray:
        """A^T B."""
        return _fetch(self._values.mT @ _send(block, self._values))

    def to_array(self) -> FloatArray:
        """A as a numpy array."""
        return _fetch(self._values)


class DeviceGram:
    """Implements `operators.Gram`."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    @property
    def trace(self) -> float:
        """||A||_F^2."""
        return float(self._values.diagonal().sum())

    @property
    def sum_of_squares(self) -> float:
        """||G||_F^2."""
        return float(self._values.square().sum())

    def multiply_vector(self, vector: FloatArray) -> FloatArray:
        """G v."""
        return _fetch(self._values @ _send(vector, self._values))

    def factorise(self) -> DeviceFactor | None:
        """Cholesky factor, or None if G is not positive definite to working precision."""
        import torch

        lower, info = torch.linalg.cholesky_ex(self._values)
        return DeviceFactor(lower) if int(info) == 0 else None

    def compute_eigenvalues(self) -> FloatArray:
        """All eigenvalues, ascending."""
        import torch

        return _fetch(torch.linalg.eigvalsh(self._values))


class DeviceFactor:
    """Implements `operators.Factor`."""

    def __init__(self, lower: torch.Tensor) -> None:
        self._lower = lower

    @cached_property
    def log_volume(self) -> float:
        """Sum of the logarithms of the diagonal."""
        return float(self._lower.diagonal().log().sum())

    def solve_vector(self, vector: FloatArray) -> FloatArray:
        """G^-1 v."""
        return self.solve(vector[:, None])[:, 0]

    def solve(self, block: FloatArray) -> FloatArray:
        """G^-1 B."""
        import torch

        return _fetch(torch.cholesky_solve(_send(block, self._lower), self._lower))

    def half_solve(self, block: FloatArray) -> FloatArray:
        """L^-1 B."""
        import torch

        return _fetch(torch.linalg.solve_triangular(self._lower, _send(block, self._lower), upper=False))


def _send(array: FloatArray, like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device)


def _fetch(tensor: torch.Tensor) -> FloatArray:
    result: FloatArray = tensor.cpu().numpy()
    return result
