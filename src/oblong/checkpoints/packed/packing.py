"""Several stored tensors that make one: the codes of a quantised weight and the companions they are decoded with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from oblong.checkpoints.dtypes import FORMATS, decode
from oblong.errors import CorruptCheckpointError

if TYPE_CHECKING:
    from oblong.checkpoints.base import TensorInfo

Bytes: TypeAlias = NDArray[np.uint8]
Array: TypeAlias = NDArray[Any]
ReadChunks: TypeAlias = Callable[["TensorInfo", int], Iterator[Bytes]]

# Decoding takes some twenty times the packed bytes while it lasts, so chunks are smaller than those of plain tensors.
CHUNK_BYTES: Final = 1 << 20

_INTEGERS: Final[Mapping[str, str]] = {"U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Values (logical shape, float32), and what rounding to their grid took away, in the same unit.

    `rounding_rms` is its rms in the row and in the column where that is largest.
    """

    values: NDArray[np.float32]
    rounding_rms: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Codes:
    """The packed bytes of one tensor, read in order."""

    info: TensorInfo
    read_chunks: ReadChunks

    def iter_units(self, unit_bytes: int) -> Iterator[Bytes]:
        """Yield the bytes in whole units of `unit_bytes` (the end may be shorter), some megabyte at a time."""
        return self.read_chunks(self.info, max(CHUNK_BYTES // unit_bytes, 1) * unit_bytes)


class Layout(Protocol):
    """How one quantiser packs its codes."""

    @property
    def dtype(self) -> str:
        """The label of the storage: NF4, GPTQ4, ..."""
        ...

    @property
    def note(self) -> str | None:
        """What a reader of the spectrum should know about this quantiser."""
        ...

    def decode(self, codes: Codes, companions: Mapping[str, Array], shape: tuple[int, ...]) -> Decoded:
        """Dequantise.

        Args:
            codes: the packed bytes.
            companions: the other stored tensors by their role in the layout (`scales`, ...), as stored.
            shape: of the logical tensor.

        Raises:
            ValueError: companions whose values cannot be right.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """The stored tensors behind one logical tensor, and how they are decoded."""

    codes: TensorInfo
    companions: Mapping[str, TensorInfo]
    layout: Layout

    def slice(self, index: int) -> Packing:
        """The same for one slice along the first dimension, which all stored tensors share."""
        companions = {role: tensor.slice(index) for role, tensor in self.companions.items()}
        return replace(self, codes=self.codes.slice(index), companions=companions)

    def iter_bytes(self, read_chunks: ReadChunks) -> Iterator[Bytes]:
        """Every stored byte in the order of the digest: companions as listed, then the codes."""
        for tensor in (*self.companions.values(), self.codes):
            yield from read_chunks(tensor, CHUNK_BYTES)

    def decode(self, read_chunks: ReadChunks, shape: tuple[int, ...]) -> Decoded:
        """Dequantise, reading every stored byte once, in the order of `iter_bytes`.

        Raises:
            CorruptCheckpointError: a file that ends early, or companions whose values cannot be right.
        """
        companions = {role: read_array(tensor, read_chunks) for role, tensor in self.companions.items()}
        try:
            return self.layout.decode(Codes(self.codes, read_chunks), companions, shape)
        except ValueError as error:
            raise CorruptCheckpointError(self.codes.file, f"tensor {self.codes.stored_name}: {error}") from error


def read_array(tensor: TensorInfo, read_chunks: ReadChunks) -> Array:
    """A small stored tensor as it is: integers as integers, floating-point numbers as float32.

    Raises:
        CorruptCheckpointError: its dtype is none that a companion can have, or its file ends early.
    """
    chunks = list(read_chunks(tensor, CHUNK_BYTES))
    stored = np.concatenate(chunks) if chunks else np.empty(0, dtype=np.uint8)
    if tensor.dtype in _INTEGERS:
        return stored.view(_INTEGERS[tensor.dtype]).reshape(tensor.shape)
    if tensor.dtype not in FORMATS:
        reason = f"tensor {tensor.stored_name} is {tensor.dtype}, which no part of a quantised weight can be"
        raise CorruptCheckpointError(tensor.file, reason)
    return decode(stored, FORMATS[tensor.dtype]).astype(np.float32, copy=False).reshape(tensor.shape)
