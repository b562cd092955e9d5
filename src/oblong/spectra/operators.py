"""What the Gram route asks of a machine: a few heavy operations, on the CPU or on an accelerator.

The iterations themselves (lanczos.py, refinement.py) run on the CPU on thin arrays, the same for every machine. So
blocks of vectors cross this border as float64 numpy arrays; matrices never do.
"""

from __future__ import annotations

from typing import Protocol

from oblong.spectra.spectrum import FloatArray


class Factor(Protocol):
    """Cholesky factor L of a Gram matrix, G = L L^T."""

    @property
    def log_volume(self) -> float:
        """1/2 ln det G: sum of the logarithms of the singular values."""

    def solve_vector(self, vector: FloatArray) -> FloatArray:
        """G^-1 v for v of shape (p,)."""

    def solve(self, block: FloatArray) -> FloatArray:
        """G^-1 B for B of shape (p, k)."""

    def half_solve(self, block: FloatArray) -> FloatArray:
        """L^-1 B for B of shape (p, k)."""


class Gram(Protocol):
    """Gram matrix G = A^T A, shape (p, p), float64."""

    @property
    def trace(self) -> float:
        """||A||_F^2."""

    @property
    def sum_of_squares(self) -> float:
        """||G||_F^2: sum of the fourth powers of the singular values."""

    def multiply_vector(self, vector: FloatArray) -> FloatArray:
        """G v for v of shape (p,)."""

    def factorise(self) -> Factor | None:
        """Cholesky factor, or None if G is not positive definite to working precision."""

    def compute_eigenvalues(self) -> FloatArray:
        """All eigenvalues, shape (p,), ascending."""


class Matrix(Protocol):
    """A = 2^-exponent * W or its transpose: tall (num_rows >= num_columns), largest element in [1/2, 1)."""

    num_rows: int
    num_columns: int
    exponent: int

    def compute_gram(self) -> Gram:
        """A^T A."""

    def multiply(self, block: FloatArray) -> FloatArray:
        """A B for B of shape (num_columns, k)."""

    def multiply_transposed(self, block: FloatArray) -> FloatArray:
        """A^T B for B of shape (num_rows, k)."""

    def to_array(self) -> FloatArray:
        """A itself as a float64 numpy array: for the route that cannot do without it."""
