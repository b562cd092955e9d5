"""A few bytes of a safetensors file on the Hub, without the rest of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Any, Final, Self

import numpy as np

from oblong.checkpoints.base import Bytes, TensorInfo
from oblong.errors import DownloadError

LENGTH_BYTES: Final = 8


class RangeReader:
    """Reads small tensors of one commit by range requests, two for the first of a shard and one for each other."""

    def __init__(self, repo: str, commit: str) -> None:
        self._repo = repo
        self._commit = commit
        self._opened: dict[str, tuple[IO[bytes], int]] = {}
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def iter_chunks(self, tensor: TensorInfo, chunk_bytes: int) -> Iterator[Bytes]:
        """Yield the stored bytes of a tensor whose `offset` counts from its shard's data, in one piece.

        Raises:
            DownloadError: they cannot be read.
        """
        name = tensor.file.name
        try:
            file, data_start = self._opened.get(name) or self._open(name)
            content = _read_at(file, data_start + tensor.offset, tensor.num_bytes)
        except Exception as error:  # httpx, huggingface_hub and fsspec raise many kinds
            reason = str(error).partition("\n")[0] or type(error).__name__
            advice = "run the same command again"
            raise DownloadError(f"cannot read {tensor.name} in {name} of {self._repo}: {reason}; {advice}") from error
        yield np.frombuffer(content, dtype=np.uint8)

    def _open(self, name: str) -> tuple[IO[bytes], int]:
        """A shard, and where its data begin (bytes)."""
        from huggingface_hub import HfFileSystem

        # Without a cache of its own it asks for exactly what is read, not for megabytes ahead.
        opened: Any = HfFileSystem().open(f"{self._repo}@{self._commit}/{name}", "rb", cache_type="none")
        file: IO[bytes] = self._closing.enter_context(opened)
        length = int.from_bytes(_read_at(file, 0, LENGTH_BYTES), "little")
        self._opened[name] = (file, LENGTH_BYTES + length)
        return self._opened[name]


def _read_at(file: IO[bytes], start: int, size: int) -> bytes:
    file.seek(start)
    content = file.read(size)
    if len(content) != size:
        raise EOFError(f"{size} bytes were asked for and {len(content)} came")
    return content
