"""What every checkpoint format gives: an index made from headers alone, and the bytes of one tensor at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from oblong.checkpoints.decoding import decode_chunks
from oblong.checkpoints.dtypes import FORMATS, decode_into
from oblong.checkpoints.scales import SCALED_DTYPES, apply_scale, find_scale
from oblong.checkpoints.stored_rows import StoredRows, stamp_file
from oblong.errors import CorruptCheckpointError
from oblong.records import CheckpointInfo

if TYPE_CHECKING:
    from oblong.checkpoints.packed.packing import Packing

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]

# Small enough that a tensor never exists twice in memory, large enough that the disk and SHA-256 run at full speed.
CHUNK_BYTES: Final = 4 << 20
UNREADABLE: Final = "make it readable for this user, or fetch the model again"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor as its file's header describes it; `name` is the Hugging Face name, `stored_name` the file's own.

    `dtype` is a key of `oblong.checkpoints.dtypes.FORMATS`, or another name for a format that is not decoded.
    `interleaved_heads` is the number of attention heads whose rotary halves llama.cpp stored interleaved, 0 if none.
    `slice_index` is set on a slice of the tensor along its first dimension (see `slice`). `role` is set where the
    source knows more than the name says (a live module knows its class); None leaves it to `classify_role`.
    `packing` is set on a logical tensor that a quantiser stored as several: the place is then that of its codes.
    `companion_of` is set on the others of the several: the logical tensor's name.
    """

    name: str
    stored_name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    num_bytes: int
    interleaved_heads: int = 0
    slice_index: int | None = None
    note: str | None = None
    packing: Packing | None = field(default=None, compare=False)
    companion_of: str | None = None
    role: str | None = None

    @property
    def num_parameters(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def slice(self, index: int) -> TensorInfo:
        """One slice along the first dimension, such as one expert of a stack; it can be read like a tensor."""
        num_bytes = self.num_bytes // self.shape[0]
        return replace(
            self,
            shape=self.shape[1:],
            offset=self.offset + index * num_bytes,
            num_bytes=num_bytes,
            slice_index=index,
            packing=self.packing and self.packing.slice(index),
        )

    def take_rows(self, start: int, stop: int) -> TensorInfo:
        """Rows start to stop of a matrix; they can be read like a tensor."""
        row_bytes = self.num_bytes // self.shape[0]
        return replace(
            self,
            shape=(stop - start, *self.shape[1:]),
            offset=self.offset + start * row_bytes,
            num_bytes=(stop - start) * row_bytes,
        )

    @property
    def is_decodable(self) -> bool:
        """Whether the storage format holds floating-point weights that can be read."""
        return self.packing is not None or self.dtype in FORMATS


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor that was read: `values` (tensor's shape, float32, or float64 for F64; None if not float).

    `rounding_rms` is the rms of what rounding took away in the row and in the column where it is largest, in the unit
    of the values, where the scales of a quantised tensor tell; None where it follows from dtype and values.
    """

    values: Floats | None
    digest: str
    rounding_rms: tuple[float, float] | None = None


class Hasher(Protocol):
    """What takes bytes in."""

    def update(self, data: memoryview[Any], /) -> None:
        """Take some bytes."""
        ...

    def hexdigest(self) -> str:
        """The digest of all so far."""
        ...


class NoHasher:
    """Stands for a hasher where nobody wants the digest."""

    def update(self, data: memoryview[Any], /) -> None:
        """Ignore the bytes."""

    def hexdigest(self) -> str:
        """No digest."""
        return ""


class TensorSource(Protocol):
    """An opened checkpoint of one format: its tensors in the order of their bytes, and those bytes."""

    @property
    def format(self) -> str:
        """safetensors, gguf, pickle or module."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold tensors."""
        ...

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every tensor."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's configuration, empty when there is none."""
        ...

    def iter_chunks(self, tensor: TensorInfo, chunk_bytes: int) -> Iterator[Bytes]:
        """Yield the stored bytes in order, `chunk_bytes` at a time (the last chunk may be shorter)."""
        ...


class Remote(Protocol):
    """Where files that are not on this disk come from, as they are needed. A commit fixes every byte of them."""

    on_fetch: Callable[[str], None]

    def stop(self) -> None:
        """Make every read that waits for the network give up; `on_fetch` is called with each file's name before it."""
        ...


class Reader(Protocol):
    """A checkpoint format."""

    def supports(self, path: Path) -> bool:
        """Whether this directory or file holds a checkpoint of this format (judged by file names alone)."""
        ...

    def open(self, path: Path) -> TensorSource:
        """Read the headers.

        Raises:
            CorruptCheckpointError: a header or index that cannot be trusted.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint: what it holds, and a way to read one tensor at a time.

    `config` is the model's `config.json` (for GGUF: its counterpart from the file's metadata), `ties` maps the name of
    a tensor that counts as a copy to the name of the tensor that it copies. `remote` is set where the files come over
    the network: an interrupted scan then goes on without reading again what was done.
    """

    path: Path
    info: CheckpointInfo
    source: TensorSource
    ties: Mapping[str, str] = field(default_factory=dict)
    remote: Remote | None = None

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every tensor, in the order of the bytes on the disk."""
        return self.source.tensors

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's configuration."""
        return self.source.config

    def load(self, tensor: TensorInfo, *, with_digest: bool = True, keep_16_bit: bool = False) -> StoredTensor:
        """Read one tensor once: its values and the SHA-256 of its stored bytes.

        Peak memory is the values plus a chunk: the stored bytes never exist as a whole.

        Args:
            tensor: one of `tensors`, or a slice of one.
            with_digest: whether to hash; the digest is `sha256:` if not.
            keep_16_bit: whether F16 values stay float16, and BF16 ones their bits in uint16, for a device to decode.

        Raises:
            CorruptCheckpointError: the file ends early or cannot be read.
        """
        hasher: Hasher = hashlib.sha256() if with_digest else NoHasher()
        # Stored bytes may be any: what overflows becomes an infinity, which is a status of the unit.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._load(tensor, hasher, keep_16_bit=keep_16_bit)

    def _load(self, tensor: TensorInfo, hasher: Hasher, *, keep_16_bit: bool) -> StoredTensor:
        if tensor.packing is not None:
            decoded = tensor.packing.decode(self._make_tee(hasher), tensor.shape)
            digest = f"sha256:{hasher.hexdigest()}"
            return StoredTensor(values=decoded.values, digest=digest, rounding_rms=decoded.rounding_rms)
        chunks = _tee(self._chunks(tensor), lambda chunk: hasher.update(chunk.data))
        values = decode_chunks(tensor, chunks, keep_16_bit=keep_16_bit) if tensor.is_decodable else None
        if values is None:
            for _ in chunks:
                pass
        else:
            values = self._finish(tensor, values)
            self._hash_scale(tensor, hasher)
        return StoredTensor(values=values, digest=f"sha256:{hasher.hexdigest()}")

    def can_load_rows(self, tensor: TensorInfo) -> bool:
        """Whether `load_rows` takes it: a tall matrix on this machine whose rows can be decoded one by one."""
        is_plain = tensor.packing is None and tensor.dtype in FORMATS and not tensor.interleaved_heads
        return (
            is_plain
            and self.remote is None  # whose files may be gone when the rows are read
            and len(tensor.shape) == 2
            and tensor.shape[0] >= tensor.shape[1] > 0
            and tensor.shape[1] % FORMATS[tensor.dtype].block_values == 0
            and self.find_scale(tensor) is None
        )

    def load_rows(self, tensor: TensorInfo) -> tuple[StoredRows, str]:
        """Hash a matrix and find its extremes, but leave it where it is; memory is a few chunks.

        Args:
            tensor: one that `can_load_rows` takes.

        Returns:
            The matrix, to be read by rows, and the SHA-256 of its stored bytes.

        Raises:
            CorruptCheckpointError: the file ends early or cannot be read.
        """
        storage = FORMATS[tensor.dtype]
        stamp = stamp_file(tensor.file)
        hasher = hashlib.sha256()
        lowest: list[float] = []
        highest: list[float] = []
        buffer: Floats = np.empty(CHUNK_BYTES // storage.block_bytes * storage.block_values, dtype=storage.decoded)
        for chunk in self._chunks(tensor):
            hasher.update(chunk.data)
            values = buffer[: chunk.size // storage.block_bytes * storage.block_values]
            decode_into(chunk, storage, values)
            lowest.append(float(values.min()))
            highest.append(float(values.max()))
        # Unlike those of Python, numpy's extremes keep a NaN.
        extremes = float(np.min(lowest)), float(np.max(highest))
        rows = StoredRows(tensor, self._decode, extremes=extremes, stamp=stamp)
        return rows, f"sha256:{hasher.hexdigest()}"

    def read(self, tensor: TensorInfo) -> Floats | None:
        """The tensor's values (tensor's shape, float32, or float64 for F64); None when it is no float tensor."""
        return self.load(tensor).values

    def digest(self, tensor: TensorInfo) -> str:
        """SHA-256 of the stored bytes, `sha256:...`, without decoding them.

        A quantised tensor's are its companions', in the order of its packing, and then its codes; those of an 8-bit
        floating-point tensor are followed by its scales.
        """
        hasher = hashlib.sha256()
        iter_chunks = self.source.iter_chunks
        for chunk in tensor.packing.iter_bytes(iter_chunks) if tensor.packing else self._chunks(tensor):
            hasher.update(chunk.data)
        self._hash_scale(tensor, hasher)
        return f"sha256:{hasher.hexdigest()}"

    def find_scale(self, tensor: TensorInfo) -> TensorInfo | None:
        """The tensor that holds the scales of an 8-bit floating-point tensor; None for every other."""
        return find_scale(tensor.name, self._by_name) if tensor.dtype in SCALED_DTYPES else None

    @cached_property
    def _by_name(self) -> Mapping[str, TensorInfo]:
        return {tensor.name: tensor for tensor in self.tensors}

    def _hash_scale(self, tensor: TensorInfo, hasher: Hasher) -> None:
        # The same codes with other scales are other weights.
        if (scale := self.find_scale(tensor)) is not None:
            for chunk in self.source.iter_chunks(scale, CHUNK_BYTES):
                hasher.update(chunk.data)

    def _make_tee(self, hasher: Hasher) -> Callable[[TensorInfo, int], Iterator[Bytes]]:
        """Chunks of stored tensors, each hashed as it passes."""
        return lambda tensor, chunk_bytes: _tee(
            self.source.iter_chunks(tensor, chunk_bytes), lambda chunk: hasher.update(chunk.data)
        )

    def _decode(self, tensor: TensorInfo) -> Floats:
        return decode_chunks(tensor, self._chunks(tensor))

    def _chunks(self, tensor: TensorInfo) -> Iterator[Bytes]:
        block_bytes = FORMATS[tensor.dtype].block_bytes if tensor.is_decodable else 1
        return self.source.iter_chunks(tensor, CHUNK_BYTES // block_bytes * block_bytes)

    def _finish(self, tensor: TensorInfo, values: Floats) -> Floats:
        scale = self.find_scale(tensor)
        if scale is not None and tensor.slice_index is not None and len(scale.shape) == len(tensor.shape) + 1:
            scale = scale.slice(tensor.slice_index)
        if scale is not None and (factors := self.read(scale)) is not None:
            apply_scale(values, factors, self.config)
        return values


def iter_file_chunks(tensor: TensorInfo, chunk_bytes: int) -> Iterator[Bytes]:
    """Yield the bytes of a tensor that lies in one piece in its file.

    Raises:
        CorruptCheckpointError: the file ends early or cannot be read.
    """
    try:
        with tensor.file.open("rb", buffering=0) as file:
            file.seek(tensor.offset)
            remaining = tensor.num_bytes
            while remaining:
                chunk = np.empty(min(chunk_bytes, remaining), dtype=np.uint8)
                _fill(file.readinto, chunk.data)
                remaining -= chunk.size
                yield chunk
    except (OSError, EOFError) as error:
        raise CorruptCheckpointError(tensor.file, f"tensor {tensor.name} cannot be read: {error}") from error


def _fill(readinto: Callable[[memoryview[Any]], int | None], buffer: memoryview[Any]) -> None:
    while buffer:
        count = readinto(buffer)
        if not count:
            raise EOFError("the file ends before the tensor does")
        buffer = buffer[count:]


def _tee(chunks: Iterator[Bytes], consume: Callable[[Bytes], None]) -> Iterator[Bytes]:
    for chunk in chunks:
        consume(chunk)
        yield chunk
