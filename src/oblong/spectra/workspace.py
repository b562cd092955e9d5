"""Memory that one thread uses for matrix after matrix.

The operating system clears every page it hands out, at some 2 microseconds each: a fresh copy of a matrix costs as much
as arithmetic on it. Arrays that are used again cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Workspace:
    """Arrays by purpose, each as large as the largest that was asked for. For one thread, and one matrix at a time."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def take(self, purpose: str, shape: tuple[int, ...], dtype: type[Any]) -> NDArray[Any]:
        """An array with whatever is in it, C order. It is handed out again when the same purpose is asked for."""
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(purpose)
        if buffer is None or buffer.size < num_bytes:
            buffer = self._buffers[purpose] = np.empty(num_bytes, dtype=np.uint8)
        array: NDArray[Any] = buffer[:num_bytes].view(dtype).reshape(shape)
        return array


class Workspaces:
    """Workspaces for as many threads as ask at the same time."""

    def __init__(self) -> None:
        self._free: SimpleQueue[Workspace] = SimpleQueue()

    @contextmanager
    def borrow(self) -> Iterator[Workspace]:
        """A workspace that no other thread has meanwhile."""
        try:
            workspace = self._free.get_nowait()
        except Empty:
            workspace = Workspace()
        try:
            yield workspace
        finally:
            self._free.put(workspace)
