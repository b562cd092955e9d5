"""Many matrices at once: one per thread while they are small, all threads on each when they are large."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from oblong.spectra.compute import DEFAULT_TOLERANCE, Precision, compute_spectrum
from oblong.spectra.spectrum import Spectrum
from oblong.spectra.workspace import Workspaces

LARGE_ELEMENTS: Final = 6 * 1024**2
"""From here on BLAS uses its threads well, and one float64 copy per thread would be a lot of memory."""


def is_large(num_elements: int) -> bool:
    """Whether a matrix of so many elements gets all BLAS threads; a smaller one always gets one."""
    return num_elements >= LARGE_ELEMENTS


def count_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compute_spectra(
    matrices: Sequence[NDArray[Any]] | NDArray[Any],
    *,
    full: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
    num_threads: int | None = None,
    precision: Precision = Precision.AUTO,
    workspaces: Workspaces | None = None,
) -> list[Spectrum]:
    """Measure several matrices, best of equal shape.

    Each result has the bits that `compute_spectrum` gives with the same number of BLAS threads, in whatever order the
    work was done.

    Args:
        matrices: Shape (num, m, n), or a sequence of (m, n) arrays; floats. Not changed.
        full: See `compute_spectrum`.
        tolerance: See `compute_spectrum`.
        num_threads: At most this many; all cores of this process by default.
        precision: See `compute_spectrum`.
        workspaces: Memory to use again in the next call.

    Returns:
        One Spectrum per matrix, in order.
    """
    num_threads = num_threads or count_cores()
    workspaces = workspaces or Workspaces()

    def measure(matrix: NDArray[Any]) -> Spectrum:
        with workspaces.borrow() as workspace:
            return compute_spectrum(matrix, full=full, tolerance=tolerance, precision=precision, workspace=workspace)

    any_large = any(is_large(matrix.size) for matrix in matrices)
    num_workers = 1 if any_large else min(num_threads, len(matrices))
    if num_workers <= 1:
        with threadpool_limits(num_threads if any_large else 1, user_api="blas"):
            return [measure(matrix) for matrix in matrices]
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(num_workers) as pool:
        return list(pool.map(measure, matrices))
