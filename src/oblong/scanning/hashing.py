"""Digests before they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from oblong.checkpoints import Checkpoint, TensorInfo
from oblong.scanning.devices import count_cores

# Where tensors are known, hashing is all that a scan does. Each thread holds one chunk of bytes.
MAX_HASHERS: Final = 4


class AheadHasher:
    """Hashes tensors in background threads before their digests are asked for; one thread begins and asks."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._pool = ThreadPoolExecutor(min(MAX_HASHERS, count_cores()), thread_name_prefix="oblong-hasher")
        self._begun: dict[str, Future[str]] = {}
        self._seen: set[str] = set()

    def begin(self, tensors: Iterable[TensorInfo]) -> None:
        """Hash these, each once however often it is named."""
        for tensor in tensors:
            if tensor.name not in self._seen:
                self._seen.add(tensor.name)
                self._begun[tensor.name] = self._pool.submit(self._checkpoint.digest, tensor)

    def digest(self, tensor: TensorInfo) -> str:
        """SHA-256 of the stored bytes; waits if it was begun."""
        begun = self._begun.pop(tensor.name, None)
        return self._checkpoint.digest(tensor) if begun is None else begun.result()

    def forget(self) -> None:
        """Give up what was begun and has not started."""
        for name in [name for name, future in self._begun.items() if future.cancel()]:
            del self._begun[name]
            self._seen.discard(name)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)
