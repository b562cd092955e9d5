"""A matrix that is too large to be in memory: its rows are read and decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from oblong.checkpoints.dtypes import FORMATS
from oblong.errors import CorruptCheckpointError

if TYPE_CHECKING:
    from oblong.checkpoints.base import TensorInfo

Floats = NDArray[np.floating[Any]]
Stamp = tuple[int, int, int]


class StoredRows:
    """A stored matrix that answers what `compute_spectrum` asks of an array: shape, extremes and blocks of rows.

    The digest was taken when the extremes were found. A file that changes after that is refused, so that the digest is
    that of the bytes that are measured.

    Args:
        tensor: shape (m, n), its rows one after the other in whole blocks of its storage format.
        read: reads and decodes a tensor, or some rows of one.
        extremes: the smallest and the largest value, NaN if there is one.
        stamp: of the file before it was read; see `stamp_file`.
    """

    ndim: Final = 2

    def __init__(
        self,
        tensor: TensorInfo,
        read: Callable[[TensorInfo], Floats],
        *,
        extremes: tuple[float, float],
        stamp: Stamp | None,
    ) -> None:
        self.shape = (tensor.shape[0], tensor.shape[1])
        self.size = tensor.num_parameters
        self.dtype = np.dtype(FORMATS[tensor.dtype].decoded)
        self._tensor = tensor
        self._read = read
        self._extremes = extremes
        self._stamp = stamp

    def min(self) -> float:
        """The smallest value."""
        return self._extremes[0]

    def max(self) -> float:
        """The largest value."""
        return self._extremes[1]

    def __getitem__(self, rows: slice) -> Floats:
        """Consecutive rows, shape (k, n), float32 (float64 for F64).

        Raises:
            CorruptCheckpointError: the file has changed since it was hashed, or cannot be read.
        """
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise ValueError(f"rows are read one after the other, not in steps of {step}")
        if stamp_file(self._tensor.file) != self._stamp:
            raise CorruptCheckpointError(self._tensor.file, "it has changed while it was scanned; scan it again")
        return self._read(self._tensor.take_rows(start, max(start, stop)))


def stamp_file(path: Path) -> Stamp | None:
    """What changes when a file does: inode, size and time of its last change; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
