"""The few BLAS and LAPACK routines that numpy lacks, called so that other threads run meanwhile.

scipy's own wrappers of the same routines hold the interpreter's lock, and `numpy.linalg.cholesky` takes three to five
times as long as `potrf`. So the routines are called where scipy publishes them for other compiled code
(`scipy.linalg.cython_blas` and `cython_lapack`), through ctypes, which lets go of the lock.

Symmetric and triangular matrices are square arrays in C order, float32 or float64. Their transpose is what Fortran
sees: routines are told "lower" and work on the upper triangle of the array.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_blas, cython_lapack

Array: TypeAlias = NDArray[np.floating[Any]]
Routine: TypeAlias = Callable[..., None]

LOWER: Final = b"L"
PLAIN: Final = b"N"
TRANSPOSED: Final = b"T"
LEFT: Final = b"L"
ONE: Final = ctypes.c_int(1)

PREFIXES: Final = {np.dtype(np.float32): "s", np.dtype(np.float64): "d"}
SCALARS: Final = {np.dtype(np.float32): ctypes.c_float, np.dtype(np.float64): ctypes.c_double}


@cache
def _find(module: Any, name: str, num_arguments: int) -> Routine:
    """The routine behind a capsule of scipy; every argument is an address."""
    capsule = module.__pyx_capi__[name]
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = get_pointer(capsule, get_name(capsule))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * num_arguments)(address)


def factorise(gram: Array) -> Array | None:
    """Cholesky factor R of a symmetric matrix, G = R^T R.

    Args:
        gram: Shape (p, p), C order. Overwritten.

    Returns:
        The same array: R in its upper triangle and on the diagonal, leftovers below. None if G is not positive
        definite to working precision.
    """
    potrf = _find(cython_lapack, PREFIXES[gram.dtype] + "potrf", 5)
    size, info = ctypes.c_int(gram.shape[0]), ctypes.c_int(0)
    potrf(LOWER, _at(size), gram.ctypes.data, _at(size), _at(info))
    return gram if info.value == 0 else None


class SymmetricProduct:
    """v -> G v, reading half of G.

    Args:
        gram: G, shape (p, p), C order; kept, not copied.
    """

    def __init__(self, gram: Array) -> None:
        self._gram, self._dtype = gram, gram.dtype
        self._size = ctypes.c_int(gram.shape[0])
        self._one, self._zero = SCALARS[self._dtype](1.0), SCALARS[self._dtype](0.0)
        self._address = gram.ctypes.data
        self._symv = _find(cython_blas, PREFIXES[self._dtype] + "symv", 10)

    def __call__(self, vector: Array) -> Array:
        """G v for v of shape (p,)."""
        vector = np.ascontiguousarray(vector, dtype=self._dtype)
        result = np.empty_like(vector)
        size, one, zero = _at(self._size), _at(self._one), _at(self._zero)
        source, target = vector.ctypes.data, result.ctypes.data
        self._symv(LOWER, size, one, self._address, size, source, _at(ONE), zero, target, _at(ONE))
        return result


class Triangle:
    """Solves and products with a triangular matrix R.

    Args:
        factor: R in the upper triangle of a (p, p) array, C order; kept, not copied.
    """

    def __init__(self, factor: Array) -> None:
        self._factor, self._dtype = factor, factor.dtype
        self._size = ctypes.c_int(factor.shape[0])
        self._one = SCALARS[self._dtype](1.0)
        self._address = factor.ctypes.data
        self._trsv = _find(cython_blas, PREFIXES[self._dtype] + "trsv", 8)
        self._trsm = _find(cython_blas, PREFIXES[self._dtype] + "trsm", 11)
        self._trmm = _find(cython_blas, PREFIXES[self._dtype] + "trmm", 11)

    def solve_vector(self, vector: Array) -> Array:
        """(R^T R)^-1 v."""
        result = np.array(vector, dtype=self._dtype)
        size, target = _at(self._size), result.ctypes.data
        for transposition in (PLAIN, TRANSPOSED):
            self._trsv(LOWER, transposition, PLAIN, size, self._address, size, target, _at(ONE))
        return result

    def half_solve(self, block: Array) -> Array:
        """R^-T B for B of shape (p, k)."""
        return self._apply(self._trsm, block, (PLAIN,))

    def other_half_solve(self, block: Array) -> Array:
        """R^-1 B for B of shape (p, k)."""
        return self._apply(self._trsm, block, (TRANSPOSED,))

    def solve(self, block: Array) -> Array:
        """(R^T R)^-1 B for B of shape (p, k)."""
        return self._apply(self._trsm, block, (PLAIN, TRANSPOSED))

    def multiply(self, block: Array) -> Array:
        """R B for B of shape (p, k)."""
        return self._apply(self._trmm, block, (TRANSPOSED,))

    def _apply(self, routine: Routine, block: Array, transpositions: tuple[bytes, ...]) -> Array:
        result = np.array(block, dtype=self._dtype, order="F")
        size, width, target = _at(self._size), ctypes.c_int(block.shape[1]), result.ctypes.data
        for transposition in transpositions:
            arguments = (LEFT, LOWER, transposition, PLAIN, size, _at(width), _at(self._one))
            routine(*arguments, self._address, size, target, size)
        return result


def _at(number: ctypes.c_int | ctypes._SimpleCData[float]) -> int:
    return ctypes.addressof(number)
