"""Several tensors read and hashed at the same time, for a device that computes faster than one thread reads."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from oblong.checkpoints import Checkpoint
from oblong.checkpoints.base import StoredTensor
from oblong.scanning.worklist import Load

Key = tuple[str, int | None]


class AheadReader:
    """Begins to read loads before they are asked for; one thread begins and asks.

    16-bit values that only the device will look at stay as they are stored (see `Checkpoint.load`).
    """

    def __init__(self, checkpoint: Checkpoint, num_readers: int) -> None:
        self._checkpoint = checkpoint
        self._pool = ThreadPoolExecutor(num_readers, thread_name_prefix="oblong-reader")
        self._begun: dict[Key, Future[StoredTensor]] = {}

    def begin(self, loads: Iterable[Load]) -> None:
        """Read these; their memory must have been granted."""
        self._begun |= {_identify(load): self._pool.submit(self._read, load) for load in loads}

    def load(self, load: Load) -> StoredTensor:
        """The tensor of a load; waits if it was begun.

        Raises:
            CorruptCheckpointError: see `Checkpoint.load`.
        """
        begun = self._begun.pop(_identify(load), None)
        return self._read(load) if begun is None else begun.result()

    def forget(self) -> None:
        """Give up what was begun and nobody asked for."""
        for future in self._begun.values():
            future.cancel()
        self._begun.clear()

    def close(self) -> None:
        """End the threads."""
        self.forget()
        self._pool.shutdown(cancel_futures=True)

    def _read(self, load: Load) -> StoredTensor:
        for_device = all(job.needs_spectrum for job in load.jobs if job.needs_values)
        return self._checkpoint.load(load.tensor, keep_16_bit=for_device)


def _identify(load: Load) -> Key:
    return load.tensor.name, load.tensor.slice_index
