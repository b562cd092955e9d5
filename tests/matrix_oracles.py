"""Matrices whose singular values are known exactly, and other things that tests of spectra compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mpmath  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

Array = NDArray[np.float64]


def make_exact(q: int, p: int, values: Array, seed: int = 0) -> tuple[Array, Array]:
    """A q x p matrix (powers of two, q >= p) and its singular values, exact to the last bit of each.

    W = H_q[:, :p] diag(s) H_p with Hadamard matrices, whose columns are orthogonal and of length sqrt(q), sqrt(p). For
    integer s whose sum is below 2^52 every entry of W is an exact integer, so no rounding has touched the spectrum.
    """
    rng = np.random.default_rng(seed)
    s = np.sort(np.rint(values))[::-1]
    assert s.sum() < 2**52
    left = hadamard(q).astype(np.float64)[rng.permutation(q)][:, rng.permutation(q)[:p]]
    right = hadamard(p).astype(np.float64)[:, rng.permutation(p)]
    return (left * s) @ right, np.sqrt(float(q) * p) * s


PROFILES: Mapping[str, Callable[[int, float], Array]] = {
    "geometric": lambda p, kappa: np.geomspace(kappa, 1, p),
    "linear": lambda p, kappa: np.linspace(kappa, 1, p),
    "one small": lambda p, kappa: np.append(np.full(p - 1, kappa), 1.0),
    "one large": lambda p, kappa: np.append(kappa, np.ones(p - 1)),
    "two levels": lambda p, kappa: np.append(np.full(p // 2, kappa), np.ones(p - p // 2)),
    "outlier": lambda p, kappa: np.concatenate([[kappa], np.linspace(kappa / 10, kappa / 100 + 2, p - 3), [2, 1]]),
    "quadratic": lambda p, kappa: (np.arange(p, 0, -1) / p) ** 2 * (kappa - 1) + 1,
}
"""Descending singular values from `kappa` down to 1."""


def make_orthonormal(rows: int, columns: int, seed: int) -> Array:
    """Random orthonormal columns."""
    result: Array = np.linalg.qr(np.random.default_rng(seed).standard_normal((rows, columns)))[0]
    return result


def make_prescribed(m: int, n: int, values: Array, seed: int = 0) -> Array:
    """U diag(s) V^T for random U and V; its singular values are s up to rounding, eps * s_1."""
    r = values.size
    result: Array = (make_orthonormal(m, r, seed) * values) @ make_orthonormal(n, r, seed + 1).T
    return result


def compute_exact_singular_values(matrix: Array) -> list[mpmath.mpf]:
    """Singular values to 50 digits, descending, of the matrix as it is stored."""
    with mpmath.workdps(50):
        values = mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False)
        return sorted(values, reverse=True)
