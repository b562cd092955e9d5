"""Reading ahead of the computation, within a fixed budget of memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Queue
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from oblong.checkpoints import Checkpoint, TensorInfo
from oblong.records import Status
from oblong.scanning.worklist import Batch, Job, Load

# Values of one batch; several equal shapes must fit for the threads to share the work. In flight there are at most
# twice as many bytes, or one tensor that is larger.
WINDOW_BYTES: Final = 32 << 20
BUDGET_BYTES: Final = 2 * WINDOW_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedJob:
    """A job with its matrix (matrix_shape, float32 or float64; None where no values are needed) and its digest.

    `rounding_rms`: see `StoredTensor`.
    """

    job: Job
    values: NDArray[np.floating[Any]] | None
    digest: str | None
    rounding_rms: float | None = None


LoadedBatch = tuple[LoadedJob, ...]


class ByteBudget:
    """Counts bytes in flight. One request that is larger than the whole budget passes when nothing else is."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._closed = False
        self._changed = threading.Condition()

    def acquire(self, size: int) -> bool:
        """Wait until `size` bytes fit; false when the budget was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._used == 0 or self._used + size <= self._limit)
            self._used += size
            return not self._closed

    def release(self, size: int) -> None:
        """Give `size` bytes back."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Let every waiting and later `acquire` return false."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@contextmanager
def read_ahead(
    checkpoint: Checkpoint, batches: Sequence[Batch], *, budget_bytes: int = BUDGET_BYTES
) -> Iterator[Iterator[LoadedBatch]]:
    """Read the batches in order in a background thread, while earlier ones are computed.

    The memory of a batch counts as free when the next one is asked for: keep no reference to its values.

    Raises:
        CorruptCheckpointError: (while iterating) a file that cannot be read.
    """
    budget = ByteBudget(budget_bytes)
    queue: Queue[LoadedBatch | Exception | None] = Queue()
    loader = TensorLoader(checkpoint)

    def fill() -> None:
        try:
            for batch in batches:
                if not budget.acquire(_count_bytes(batch)):
                    return
                queue.put(tuple(loaded for load in batch for loaded in loader.load(load)))
            queue.put(None)
        except Exception as error:  # handed to the consumer, which raises it
            queue.put(error)

    def drain() -> Iterator[LoadedBatch]:
        for batch in batches:
            loaded = queue.get()
            if isinstance(loaded, Exception):
                raise loaded
            assert loaded is not None
            yield loaded
            del loaded
            budget.release(_count_bytes(batch))

    thread = threading.Thread(target=fill, name="oblong-reader", daemon=True)
    thread.start()
    try:
        yield drain()
    finally:
        budget.close()
        if checkpoint.remote is not None:
            checkpoint.remote.stop()
        thread.join()


class TensorLoader:
    """Performs loads, one after the other; remembers the digest of the stack whose experts are being read."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._stack_digest: tuple[str, str] = ("", "")

    def load(self, load: Load) -> Iterator[LoadedJob]:
        """Read once and give every job its matrix; an excluded tensor is not read at all."""
        values, digest, rounding_rms = self._read(load)
        for job in load.jobs:
            matrix = None if values is None or not job.needs_values else _extract(job, load, values)
            is_read = job.unit.status is not Status.EXCLUDED
            yield LoadedJob(job=job, values=matrix, digest=digest if is_read else None, rounding_rms=rounding_rms)

    def _read(self, load: Load) -> tuple[NDArray[np.floating[Any]] | None, str | None, float | None]:
        if all(job.unit.status is Status.EXCLUDED for job in load.jobs):
            return None, None, None
        is_slice = load.tensor.slice_index is not None
        if not any(job.needs_values for job in load.jobs):
            return None, self._digest_whole(load.jobs[0].tensor), None
        stored = self._checkpoint.load(load.tensor)
        digest = self._digest_whole(load.jobs[0].tensor) if is_slice else stored.digest
        return stored.values, digest, stored.rounding_rms

    def _digest_whole(self, tensor: TensorInfo) -> str:
        name, digest = self._stack_digest
        if name != tensor.name:
            digest = self._checkpoint.digest(tensor)
            self._stack_digest = (tensor.name, digest)
        return digest


def _extract(job: Job, load: Load, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    return job.matrix.extract(values) if load.tensor.slice_index is None else job.matrix.extract_from_slice(values)


def _count_bytes(batch: Batch) -> int:
    return sum(load.decoded_bytes for load in batch)
