"""What the Gram routes ask of a machine: a few heavy operations, on the CPU or on an accelerator.

The iterations themselves (lanczos.py, refinement.py) run on the CPU on thin arrays, the same for every machine. So
blocks of vectors cross this border as float64 numpy arrays; matrices never do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from oblong.spectra.spectrum import FloatArray


class Factor(Protocol):
    """Cholesky factor R of a Gram matrix, G = R^T R. Blocks may come back in the precision of the factor."""

    @property
    def log_volume(self) -> float:
        """1/2 ln det G: sum of the logarithms of the singular values."""

    def solve_vector(self, vector: NDArray[Any]) -> NDArray[Any]:
        """G^-1 v for v of shape (p,)."""

    def solve(self, block: FloatArray) -> NDArray[Any]:
        """G^-1 B for B of shape (p, k)."""

    def half_solve(self, block: FloatArray) -> NDArray[Any]:
        """R^-T B for B of shape (p, k)."""


class Gram(Protocol):
    """Gram matrix G = A^T A, shape (p, p)."""

    @property
    def trace(self) -> float:
        """||A||_F^2."""

    @property
    def sum_of_squares(self) -> float:
        """||G||_F^2: sum of the fourth powers of the singular values."""

    def multiply_vector(self, vector: NDArray[Any]) -> NDArray[Any]:
        """G v for v of shape (p,)."""

    def to_float32(self) -> Gram | None:
        """The same matrix rounded to float32; None where there is nothing to gain by it."""

    def factorise(self, *, overwrite: bool = False) -> Factor | None:
        """Cholesky factor, or None if G is not positive definite to working precision.

        With `overwrite` it may take the place of G, of which only `trace` and `sum_of_squares` are asked then.
        """

    def compute_eigenvalues(self) -> FloatArray:
        """All eigenvalues, shape (p,), ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one reading of A gives for blocks B and C of shape (p, k); float64.

    Attributes:
        product: A B, shape (q, k).
        normal: A^T A B, shape (p, k).
        also: A C, shape (q, k).
        sum_of_squares: ||A||_F^2.
    """

    product: FloatArray
    normal: FloatArray
    also: FloatArray
    sum_of_squares: float


class Matrix(Protocol):
    """A = 2^-exponent * W or its transpose: tall (num_rows >= num_columns), largest element in [1/2, 1)."""

    num_rows: int
    num_columns: int
    exponent: int

    def compute_gram(self) -> Gram:
        """A^T A in float64."""

    def multiply_twice(self, block: FloatArray, also: FloatArray | None = None) -> Reading:
        """A B, A^T A B and A C for B and C of shape (num_columns, k)."""

    def to_array(self) -> FloatArray:
        """A itself as a float64 numpy array: for the route that cannot do without it."""
