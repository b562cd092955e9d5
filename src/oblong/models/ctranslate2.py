"""CTranslate2's `model.bin`: named arrays one after the other, read without CTranslate2.

Source: CTranslate2, `python/ctranslate2/specs/model_spec.py`, `ModelSpec._serialize` (binary version 6). Little
endian; a string is a u16 length that counts its closing NUL, then the bytes:

    u32 binary version, string specification, u32 revision,
    u32 count, then per array: string name, u8 dimensions, u32 each dimension, u8 dtype, u32 bytes, data,
    u32 count, then per alias: string alias, string name
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from oblong.errors import CorruptCheckpointError

VERSION: Final = 6
# By dtype number; 5 is bfloat16, which numpy does not have and no model here uses.
DTYPES: Final[Mapping[int, str]] = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}

Arrays = Mapping[str, NDArray[Any]]


@dataclass(slots=True)
class Cursor:
    """Reads one value after the other from a buffer."""

    buffer: memoryview
    position: int = field(default=0)

    def take(self, num_bytes: int) -> memoryview:
        """The next bytes; EOFError when there are fewer."""
        taken = self.buffer[self.position : self.position + num_bytes]
        if len(taken) < num_bytes:
            raise EOFError(f"{num_bytes} bytes expected at {self.position}, the file has {len(taken)} more")
        self.position += num_bytes
        return taken

    def take_number(self, form: str) -> int:
        """The next number: B, H or I, of 1, 2 or 4 bytes."""
        number: int = struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]
        return number

    def take_string(self) -> str:
        """The next string, without its NUL."""
        return bytes(self.take(self.take_number("H"))[:-1]).decode()


def read_ctranslate2(path: Path) -> Arrays:
    """Read every array of a `model.bin`, its aliases as further names; the arrays are views of a memory map.

    Raises:
        CorruptCheckpointError: truncated, of another version, or with a dtype that is not known.
    """
    try:
        return _read_arrays(Cursor(np.memmap(path, np.uint8, mode="r").data))
    except (EOFError, ValueError) as error:
        raise CorruptCheckpointError(path, f"it is no CTranslate2 model: {error}") from error


def _read_arrays(cursor: Cursor) -> Arrays:
    version = cursor.take_number("I")
    if version != VERSION:
        raise ValueError(f"binary version {version}, expected {VERSION}")
    cursor.take_string()
    cursor.take_number("I")
    arrays = dict(_read_array(cursor) for _ in range(cursor.take_number("I")))
    for _ in range(cursor.take_number("I")):
        alias, name = cursor.take_string(), cursor.take_string()
        if name not in arrays:
            raise ValueError(f"{alias} is an alias of {name}, which is not there")
        arrays[alias] = arrays[name]
    return arrays


def _read_array(cursor: Cursor) -> tuple[str, NDArray[Any]]:
    name = cursor.take_string()
    shape = [cursor.take_number("I") for _ in range(cursor.take_number("B"))]
    number = cursor.take_number("B")
    if number not in DTYPES:
        raise ValueError(f"{name} has dtype {number}, expected one of {tuple(DTYPES)}")
    data = cursor.take(cursor.take_number("I"))
    return name, np.frombuffer(data, DTYPES[number]).reshape(shape)
