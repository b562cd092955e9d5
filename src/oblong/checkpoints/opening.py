"""From a path to an opened checkpoint, whatever its format."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from oblong.checkpoints.base import Checkpoint, Reader
from oblong.checkpoints.gguf import GgufReader
from oblong.checkpoints.layout import describe
from oblong.checkpoints.pickles import PickleReader
from oblong.checkpoints.safetensors import SafetensorsReader
from oblong.checkpoints.scales import check_scales
from oblong.checkpoints.ties import find_ties
from oblong.errors import CorruptCheckpointError, UnsupportedFormatError

# In order of preference where a directory holds several formats of the same weights.
READERS: Final[tuple[Reader, ...]] = (SafetensorsReader(), GgufReader(), PickleReader())


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint: its headers are read and checked, its data are not.

    Args:
        path: a directory or file, as `locate_model` returns it.

    Raises:
        UnsupportedFormatError: no checkpoint of a known format there.
        CorruptCheckpointError: a header or index that cannot be trusted, or no tensor at all.
    """
    reader = next((reader for reader in READERS if reader.supports(path)), None)
    if reader is None:
        raise UnsupportedFormatError(path, _explain_absence(path))
    source = reader.open(path)
    if not source.tensors:
        raise CorruptCheckpointError(path, "it holds no tensors")
    check_scales(source.tensors, source.config)
    return Checkpoint(path=path, info=describe(source), source=source, ties=find_ties(source))


def _explain_absence(path: Path) -> str:
    if path.is_dir():
        state = "is empty" if not any(path.iterdir()) else "holds no weights"
        return f"the directory {state}: expected *.safetensors, one *.gguf or pytorch_model*.bin"
    return "is no checkpoint: expected a directory, .safetensors, .gguf, .bin, .pt or .pth"
