"""Reading ahead of the computation, within a fixed budget of memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from queue import Queue
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from oblong.checkpoints import Checkpoint, StoredRows, TensorInfo
from oblong.records import Status
from oblong.scanning.cache import Recall, SpectrumCache
from oblong.scanning.devices import Feed
from oblong.scanning.finding import Finding
from oblong.scanning.hashing import AheadHasher
from oblong.scanning.reading import AheadReader
from oblong.scanning.worklist import Batch, Job, Load

# Values of one batch; several equal shapes must fit for the threads to share the work. In flight there are at most
# twice as many bytes; or one batch and the next, if both together are no more than PAIR_BYTES (two matrices of the MLP
# of an 8B model); or one tensor that is larger.
WINDOW_BYTES: Final = 32 << 20
BUDGET_BYTES: Final = 2 * WINDOW_BYTES
PAIR_BYTES: Final = 512 << 20
# From here on a tall matrix, such as the embeddings of a large vocabulary, is read by rows each time it is needed.
STORED_BYTES: Final = 256 << 20
# How far known tensors are hashed in advance.
BATCHES_AHEAD: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedJob:
    """A job with its matrix (matrix_shape, float32 or float64; None where no values are needed) and its digest.

    A matrix that is very large is left in its file, as `StoredRows`. `rounding_rms`: see `StoredTensor`. `known` is
    what the cache has about the matrix, `key` the name under which it would keep it. `staged` is the matrix where an
    accelerator wants it; `values` is None then.
    """

    job: Job
    values: NDArray[np.floating[Any]] | StoredRows | None
    digest: str | None
    rounding_rms: tuple[float, float] | None = None
    key: str | None = None
    known: Finding | None = None
    staged: Any = None


LoadedBatch = tuple[LoadedJob, ...]


class ByteBudget:
    """Counts bytes in flight.

    A request that is larger than the whole budget passes when nothing else is in flight, or beside one other if both
    together stay below `pair_limit`.
    """

    def __init__(self, limit: int, pair_limit: int = 0) -> None:
        self._limit = limit
        self._pair_limit = pair_limit
        self._used = 0
        self._num_held = 0
        self._closed = False
        self._changed = threading.Condition()

    def acquire(self, size: int) -> bool:
        """Wait until `size` bytes fit; false when the budget was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fits(size))
            self._used += size
            self._num_held += 1
            return not self._closed

    def _fits(self, size: int) -> bool:
        limit = max(self._limit, self._pair_limit) if self._num_held <= 1 else self._limit
        return self._used == 0 or self._used + size <= limit

    def release(self, size: int) -> None:
        """Give `size` bytes back."""
        with self._changed:
            self._used -= size
            self._num_held -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let every waiting and later `acquire` return false."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@contextmanager
def read_ahead(
    checkpoint: Checkpoint,
    batches: Sequence[Batch],
    *,
    cache: SpectrumCache | None = None,
    budget_bytes: int = BUDGET_BYTES,
    by_rows: bool = False,
    feed: Feed | None = None,
) -> Iterator[Iterator[LoadedBatch]]:
    """Read the batches in order in a background thread, while earlier ones are computed.

    The memory of a batch counts as free when the next one is asked for: keep no reference to its values. With a `feed`
    several tensors are read at the same time, and matrices arrive staged for the device.

    Args:
        checkpoint: where from.
        batches: what, in this order.
        cache: findings of earlier scans.
        budget_bytes: values in flight; see `ByteBudget`.
        by_rows: whether very large matrices are left in their files; see `TensorLoader`.
        feed: how an accelerator is fed.

    Raises:
        CorruptCheckpointError: (while iterating) a file that cannot be read.
    """
    budget = ByteBudget(budget_bytes, PAIR_BYTES)
    queue: Queue[LoadedBatch | Exception | None] = Queue()
    hasher = AheadHasher(checkpoint)
    reader = AheadReader(checkpoint, feed.num_readers) if feed else None
    loader = TensorLoader(checkpoint, cache, hasher, reader, by_rows=by_rows)
    sizes = [sum(loader.count_bytes(load) for load in batch) for batch in batches]

    def fill() -> None:
        try:
            for index, batch in enumerate(batches):
                loader.announce(load for later in batches[index : index + BATCHES_AHEAD] for load in later)
                if not budget.acquire(sizes[index]):
                    return
                loader.begin(batch)
                queue.put(tuple(_stage(loaded, feed) for load in batch for loaded in loader.load(load)))
                loader.forget()
            queue.put(None)
        except Exception as error:  # handed to the consumer, which raises it
            queue.put(error)

    def drain() -> Iterator[LoadedBatch]:
        for size in sizes:
            loaded = queue.get()
            if isinstance(loaded, Exception):
                raise loaded
            assert loaded is not None
            yield loaded
            del loaded
            budget.release(size)

    thread = threading.Thread(target=fill, name="oblong-reader", daemon=True)
    thread.start()
    try:
        yield drain()
    finally:
        budget.close()
        if checkpoint.remote is not None:
            checkpoint.remote.stop()
        thread.join()
        hasher.close()
        if reader is not None:
            reader.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What one load brought: the values of its tensor unless nobody needs them, the digest unless it was not read."""

    values: NDArray[np.floating[Any]] | StoredRows | None = None
    digest: str | None = None
    rounding_rms: tuple[float, float] | None = None
    recall: Recall = field(default_factory=Recall)


class TensorLoader:
    """Performs loads, one after the other; remembers the digest of the stack whose experts are being read.

    With a cache a tensor is hashed first and decoded only if something in it is unknown. After a tensor that was
    unknown the next one is expected to be so too, and is decoded while it is hashed: that way neither the first scan
    of a model nor a repeated one reads its bytes twice.

    `by_rows` leaves a very large tall matrix where it is: reading it again for every pass of the arithmetic costs a few
    per cent of its time and saves its size in memory. The values, and so the results, are the same.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        cache: SpectrumCache | None = None,
        hasher: AheadHasher | None = None,
        reader: AheadReader | None = None,
        *,
        by_rows: bool = False,
    ) -> None:
        self._by_rows = by_rows
        self._checkpoint = checkpoint
        self._cache = cache
        self._hasher = hasher or AheadHasher(checkpoint)
        self._reader = reader
        self._stack_digest: tuple[str, str] = ("", "")
        self._expects_known = True
        self._was_known = False

    def announce(self, loads: Iterable[Load]) -> None:
        """Say what will be loaded next: what is probably known is hashed in the background, and so are stacks."""
        self._hasher.begin(load.jobs[0].tensor for load in loads if self._is_hashed_first(load))

    def _is_hashed_first(self, load: Load) -> bool:
        if self._checkpoint.remote is not None:
            return False  # threads that read ahead would fetch and delete each other's shards
        if self._was_known and self._can_skip_values(load):
            return True
        # A live module's weights may come through hooks that serve one thread.
        has_files = bool(self._checkpoint.source.files)
        return has_files and load.tensor.slice_index is not None and any(job.needs_values for job in load.jobs)

    def begin(self, batch: Batch) -> None:
        """Start to read a batch whose memory was granted, if several can be read at once and are probably unknown."""
        if self._reader is None or (self._cache is not None and self._expects_known):
            return
        # Shards that come over the network are fetched and deleted in order.
        if self._checkpoint.remote is not None:
            return
        unread = [load for load in batch if any(job.needs_values for job in load.jobs)]
        self._hasher.begin(load.jobs[0].tensor for load in unread if load.tensor.slice_index is not None)
        self._reader.begin(unread)

    def forget(self) -> None:
        """Give up what was begun in vain."""
        if self._reader is not None:
            self._reader.forget()

    def load(self, load: Load) -> Iterator[LoadedJob]:
        """Read once and give every job its matrix; an excluded tensor is not read at all."""
        read = self._read(load)
        for job in load.jobs:
            name = job.unit.name
            known = read.recall.findings.get(name)
            is_needed = read.values is not None and job.needs_values and known is None
            is_read = job.unit.status is not Status.EXCLUDED
            yield LoadedJob(
                job=job,
                values=_extract(job, load, read.values) if is_needed and read.values is not None else None,
                digest=read.digest if is_read else None,
                rounding_rms=read.rounding_rms,
                key=read.recall.keys.get(name),
                known=known,
            )

    def _read(self, load: Load) -> _Read:
        tensor = load.jobs[0].tensor
        if all(job.unit.status is Status.EXCLUDED for job in load.jobs):
            return _Read()
        if not any(job.needs_values for job in load.jobs):
            return _Read(digest=self._digest_whole(tensor))
        is_slice = load.tensor.slice_index is not None
        if self._can_skip_values(load) and (is_slice or self._expects_known):
            digest = self._digest_whole(tensor)
            recall = self._recall(load, digest)
            if recall.is_complete:
                return _Read(digest=digest, recall=recall)
        if self._stays_stored(load):
            rows, digest = self._checkpoint.load_rows(load.tensor)
            return _Read(values=rows, digest=digest, recall=self._recall(load, digest))
        # An expert's row has the digest of its stack, which is hashed as a whole.
        with_digest = not is_slice
        stored = (
            self._reader.load(load) if self._reader else self._checkpoint.load(load.tensor, with_digest=with_digest)
        )
        digest = self._digest_whole(tensor) if is_slice else stored.digest
        recall = self._recall(load, digest)
        return _Read(values=stored.values, digest=digest, rounding_rms=stored.rounding_rms, recall=recall)

    def count_bytes(self, load: Load) -> int:
        """Memory that the values of a load will take; those of one that stays in its file count as a part of it."""
        return min(load.decoded_bytes, STORED_BYTES) if self._stays_stored(load) else load.decoded_bytes

    def _stays_stored(self, load: Load) -> bool:
        job = load.jobs[0]
        return (
            self._by_rows
            and load.decoded_bytes > STORED_BYTES
            and len(load.jobs) == 1
            and job.needs_spectrum
            and job.matrix.cut_from is None
            and job.tensor is load.tensor
            and job.matrix.matrix_shape == load.tensor.shape
            and self._checkpoint.can_load_rows(load.tensor)
        )

    def _can_skip_values(self, load: Load) -> bool:
        needed = [job.needs_spectrum for job in load.jobs if job.needs_values]
        return self._cache is not None and bool(needed) and all(needed)

    def _recall(self, load: Load, digest: str) -> Recall:
        jobs = [job for job in load.jobs if job.needs_spectrum]
        if self._cache is None or not jobs:
            return Recall()
        recall = self._cache.recall(jobs, digest)
        self._expects_known = self._was_known = recall.is_complete
        if not recall.is_complete:
            self._hasher.forget()
        return recall

    def _digest_whole(self, tensor: TensorInfo) -> str:
        name, digest = self._stack_digest
        if name != tensor.name:
            digest = self._hasher.digest(tensor)
            self._stack_digest = (tensor.name, digest)
        return digest


def _stage(loaded: LoadedJob, feed: Feed | None) -> LoadedJob:
    if feed is None or not isinstance(loaded.values, np.ndarray) or not loaded.job.needs_spectrum:
        return loaded
    return replace(loaded, values=None, staged=feed.stage(loaded.values))


def _extract(
    job: Job, load: Load, values: NDArray[np.floating[Any]] | StoredRows
) -> NDArray[np.floating[Any]] | StoredRows:
    if isinstance(values, StoredRows):
        return values
    return job.matrix.extract(values) if load.tensor.slice_index is None else job.matrix.extract_from_slice(values)
