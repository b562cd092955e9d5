"""Features on the disk: shards that one writer each appends to, and beside every shard an index that is believed.

    1c9e....bf16     the frames of clip after clip, bfloat16, C order, nothing between them
    1c9e....jsonl    one line per clip, CHECKSUM {json}; the first says whose features they are

Every process that has something to write begins a shard of its own, so writers need no lock. The frames are written
before their line; a line that is torn, or points at bytes that are missing or changed, does not count.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from oblong.corpora.speech import Sound
from oblong.errors import OutputWriteError

PLACE_VARIABLE: Final = "OBLONG_FEATURE_CACHE"
INDEX_KIND: Final = "oblong.features"
CHECKSUM_LENGTH: Final = 16
BYTES_PER_NUMBER: Final = 2
# A few files for hundreds of hours, and small enough that dropping the oldest shard is a fine measure.
MAX_SHARD_BYTES: Final = 2**30

Frames: TypeAlias = NDArray[np.int16]
"""(num_frames, width): the bits of bfloat16 numbers, which numpy has no type for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Whose features: `digest` is SHA-256 over `description`, `width` the numbers per frame."""

    digest: str
    width: int
    description: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One clip of a shard.

    Attributes:
        key: of its audio.
        begin: of its frames in the shard, bytes.
        num_frames: valid ones.
        sound: the recording's length and loudness, so that it can be judged without decoding.
        digest: SHA-256 of the frames' bytes.
    """

    key: str
    begin: int
    num_frames: int
    sound: Sound
    digest: str


@dataclass(slots=True)
class Shard:
    """One shard as its index describes it. `num_torn` counts lines that are torn or damaged."""

    path: Path
    encoder: Encoder
    entries: list[Entry] = field(default_factory=list)
    num_torn: int = 0
    _mapped: Frames | None = None

    def map(self, entry: Entry) -> Frames | None:
        """The frames of a clip, mapped into memory; None where the file has none there.

        Whether they are what was written, their digest tells. What a caller writes into them stays in this process.
        """
        end = entry.begin + entry.num_frames * self.encoder.width * BYTES_PER_NUMBER
        if self._mapped is None or self._mapped.nbytes < end:
            self._mapped = _map_file(self.path)
        if self._mapped is None or self._mapped.nbytes < end:
            return None
        numbers = self._mapped[entry.begin // BYTES_PER_NUMBER : end // BYTES_PER_NUMBER]
        return numbers.reshape(entry.num_frames, self.encoder.width)


class ShardWriter:
    """Appends clips to a shard of its own, which begins with the first of them."""

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        self._folder = folder
        self._encoder = encoder
        self._shard: Shard | None = None
        self._data: BinaryIO | None = None
        self._size = 0

    def append(self, key: str, frames: Frames, sound: Sound) -> tuple[Shard, Entry]:
        """Write a clip; it is there for others when this returns.

        Raises:
            OutputWriteError: the disk is full, or the place cannot be written; earlier clips are untouched.
        """
        try:
            shard, data = self._open()
            entry = Entry(key=key, begin=self._size, num_frames=len(frames), sound=sound, digest=digest_frames(frames))
            _write_all(data, np.ascontiguousarray(frames).data.cast("B"))
            self._size += frames.nbytes
            _append_line(_index_of(shard.path), asdict(entry))
        except OSError as error:
            self.close()
            raise OutputWriteError(self._folder, _explain(error)) from error
        return shard, entry

    def close(self) -> None:
        """End the shard; a later clip begins another."""
        if self._data is not None:
            self._data.close()
        self._shard = self._data = None

    def _open(self) -> tuple[Shard, BinaryIO]:
        if self._size >= MAX_SHARD_BYTES:
            self.close()
        if self._shard is None or self._data is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{uuid.uuid4().hex}.bf16"
            # The index first: no file of frames is ever without one, which is what usage and pruning go by.
            _append_line(_index_of(path), {"kind": INDEX_KIND, **asdict(self._encoder)})
            self._data = path.open("xb", buffering=0)
            self._shard, self._size = Shard(path, self._encoder), 0
        return self._shard, self._data


def read_shard(index: Path) -> Shard | None:
    """What an index says; None where its first line is missing or damaged.

    Raises:
        OSError: the file is there and cannot be read.
    """
    header, *lines = index.read_bytes().lstrip(b"\n").split(b"\n")
    try:
        said = dict(_open_line(header))
        is_ours = said.pop("kind") == INDEX_KIND
        shard = Shard(index.with_suffix(".bf16"), Encoder(**said))
    except (ValueError, TypeError, KeyError):
        return None
    for line in filter(None, lines):
        try:
            shard.entries.append(_parse_entry(line))
        except (ValueError, TypeError, KeyError):
            shard.num_torn += 1
    return shard if is_ours else None


def iter_indices(folder: Path) -> Iterator[Path]:
    """The indices in a folder and below, the one that was last written first."""
    return iter(sorted(folder.rglob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns, reverse=True))


def measure_shard(index: Path) -> int:
    """Bytes of a shard and its index."""
    return sum(path.stat().st_size for path in (index, index.with_suffix(".bf16")) if path.exists())


def remove_shard(index: Path) -> None:
    """Remove a shard and its index; whoever has it mapped keeps what was there."""
    index.unlink(missing_ok=True)
    index.with_suffix(".bf16").unlink(missing_ok=True)


def digest_frames(frames: Frames) -> str:
    """SHA-256 in hexadecimal of the frames' bytes."""
    return hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()


def _index_of(shard: Path) -> Path:
    return shard.with_suffix(".jsonl")


def _map_file(path: Path) -> Frames | None:
    """A shard as one row of numbers, copied on write; None where it is not there or empty."""
    try:
        size = path.stat().st_size // BYTES_PER_NUMBER
        return np.memmap(path, dtype=np.int16, mode="c", shape=(size,)) if size else None
    except OSError:
        return None


def _append_line(path: Path, data: Mapping[str, Any]) -> None:
    body = json.dumps(data, allow_nan=False, separators=(",", ":")).encode()
    with path.open("ab", buffering=0) as file:
        # The break comes first, so that nothing is ever glued to a line that was torn before.
        _write_all(file, memoryview(b"\n" + _checksum(body) + b" " + body))


def _open_line(line: bytes) -> dict[str, Any]:
    checksum, body = line[:CHECKSUM_LENGTH], line[CHECKSUM_LENGTH + 1 :]
    if checksum != _checksum(body):
        raise ValueError("another checksum")
    opened: dict[str, Any] = json.loads(body)
    return opened


def _parse_entry(line: bytes) -> Entry:
    data = _open_line(line)
    entry = Entry(**{**data, "sound": Sound(**data["sound"])})
    if entry.begin < 0 or entry.begin % BYTES_PER_NUMBER or entry.num_frames < 1:
        raise ValueError("impossible place")
    return entry


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:CHECKSUM_LENGTH].encode()


def _write_all(file: Any, content: memoryview) -> None:
    while content:
        content = content[file.write(content) :]


def _explain(error: OSError) -> str:
    return (
        f"{error.strerror or error}; what is encoded so far is kept. Make room with `oblong cache prune`, or name "
        f"another folder in ${PLACE_VARIABLE}"
    )
