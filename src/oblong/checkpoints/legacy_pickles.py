"""Files that torch wrote before 1.6: five pickles and then the storages, which cannot be memory-mapped by torch."""

from __future__ import annotations

import mmap
import pickletools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

# Magic number, protocol and system come before the pickle of the tensors.
NUM_PREAMBLES: Final = 3
NUMBERS: Final = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")


def load_legacy(file: Path) -> Any:
    """Load with `weights_only`, through a mapping of the file: a string that claims gigabytes then gets what is there.

    Raises:
        ValueError, pickle.UnpicklingError, ...: whatever fails first.
    """
    import torch

    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        check_storage_sizes(mapped)
        mapped.seek(0)
        stream: Any = mapped
        return torch.load(stream, map_location="cpu", weights_only=True)


def check_storage_sizes(mapped: mmap.mmap) -> None:
    """Make sure that no storage has more elements than the file has bytes: torch allocates before it reads.

    Raises:
        ValueError: one that has.
    """
    for number in _iter_storage_sizes(mapped):
        if number > len(mapped):
            raise ValueError(f"a storage of {number} elements in a file of {len(mapped)} bytes")


def _iter_storage_sizes(stream: Any) -> Iterator[int]:
    """The number of elements of each storage: the last number before the opcode that asks for it."""
    number = 0
    with suppress(ValueError):  # no pickle, which torch refuses with a better reason
        for _ in range(NUM_PREAMBLES):
            for _ in pickletools.genops(stream):
                pass
        for opcode, value, _ in pickletools.genops(stream):
            if isinstance(value, int) and opcode.name in NUMBERS:
                number = value
            elif opcode.name == "BINPERSID":
                yield number
