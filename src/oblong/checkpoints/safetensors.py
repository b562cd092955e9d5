"""Safetensors: one file, or shards named by an index.

Two independent checks stand between a hostile file and the mathematics: our own parse of the header, whose messages
say what is wrong, and the safetensors library, which also refuses overlaps, holes and sizes that do not fit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from oblong.checkpoints.base import UNREADABLE, Bytes, TensorInfo, iter_file_chunks
from oblong.checkpoints.config import read_config, read_json_object, refuse_half_characters
from oblong.checkpoints.layout import refuse_duplicates
from oblong.checkpoints.packed.grouping import group_packed
from oblong.errors import CorruptCheckpointError

SUFFIX: Final = ".safetensors"
SINGLE_NAME: Final = "model.safetensors"
INDEX_NAME: Final = "model.safetensors.index.json"
LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 100_000_000  # the library's own limit
METADATA_KEY: Final = "__metadata__"


@dataclass(frozen=True)
class SafetensorsSource:
    """Opened safetensors files."""

    files: tuple[Path, ...]
    tensors: tuple[TensorInfo, ...]
    config: Mapping[str, Any]
    format: str = "safetensors"

    def iter_chunks(self, tensor: TensorInfo, chunk_bytes: int) -> Iterator[Bytes]:
        """Yield the stored bytes; see `TensorSource`."""
        return iter_file_chunks(tensor, chunk_bytes)


class SafetensorsReader:
    """Reads `.safetensors` files and directories that hold them."""

    def supports(self, path: Path) -> bool:
        """Whether `path` is a safetensors file, or a directory with one or with an index."""
        if path.is_dir():
            return (path / INDEX_NAME).exists() or any(path.glob(f"*{SUFFIX}"))
        return path.suffix == SUFFIX

    def open(self, path: Path) -> SafetensorsSource:
        """Read the headers of all files; see `Reader`."""
        index = path / INDEX_NAME
        weight_map = _read_weight_map(index) if path.is_dir() and index.exists() else None
        files = _list_shards(index, weight_map) if weight_map is not None else _list_files(path)
        tensors = tuple(tensor for file in files for tensor in read_header(file))
        refuse_duplicates(tensors)
        if weight_map is not None:
            _check_weight_map(index, weight_map, tensors)
        config = read_config(path)
        tensors = group_packed(tensors, config, iter_file_chunks)
        return SafetensorsSource(files=files, tensors=tensors, config=config)


def read_header(path: Path) -> list[TensorInfo]:
    """Read one file's header.

    Returns:
        The tensors in the order of their bytes.

    Raises:
        CorruptCheckpointError: too short, a header that is too long or no JSON, or tensors that do not fit the file.
    """
    try:
        header, data_start = _parse_header(path)
        with safe_open(path, framework="np"):
            pass
        tensors = [_make_tensor(path, name, entry, data_start) for name, entry in header.items()]
    except SafetensorError as error:
        raise CorruptCheckpointError(path, f"the safetensors library refuses it: {error}") from error
    except OSError as error:
        raise CorruptCheckpointError(path, f"cannot be read: {error.strerror or error}", advice=UNREADABLE) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpointError(path, f"its header describes a tensor wrongly: {error}") from error
    return sorted(tensors, key=lambda tensor: (tensor.offset, tensor.num_bytes, tensor.name))


def _parse_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header without its metadata, and the offset of the first data byte."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES:
            raise CorruptCheckpointError(path, f"it has {size} bytes, too few for a header")
        if length > MAX_HEADER_BYTES or LENGTH_BYTES + length > size:
            reason = f"it declares a header of {length} bytes but has {size}; it is truncated or not safetensors"
            raise CorruptCheckpointError(path, reason)
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_refuse_repeated_keys)
        refuse_half_characters(header)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpointError(path, f"its header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise CorruptCheckpointError(path, "its header is not a JSON object")
    header.pop(METADATA_KEY, None)
    return header, LENGTH_BYTES + length


def _refuse_repeated_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _make_tensor(path: Path, name: str, entry: Mapping[str, Any], data_start: int) -> TensorInfo:
    begin, end = entry["data_offsets"]
    return TensorInfo(
        name=name,
        stored_name=name,
        dtype=str(entry["dtype"]),
        shape=tuple(int(size) for size in entry["shape"]),
        file=path,
        offset=data_start + int(begin),
        num_bytes=int(end) - int(begin),
    )


def _list_files(path: Path) -> tuple[Path, ...]:
    """The files of a checkpoint without an index."""
    if path.is_file():
        return (path,)
    single = path / SINGLE_NAME
    return (single,) if single.exists() else tuple(sorted(path.glob(f"*{SUFFIX}")))


def _read_weight_map(index: Path) -> Mapping[str, str]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptCheckpointError(index, "it has no `weight_map`")
    for tensor, shard in weight_map.items():
        # A shard is a plain file name: an index must not make us read elsewhere.
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CorruptCheckpointError(index, f"tensor {tensor} is mapped to {shard!r}, which is no file name")
    return weight_map


def _list_shards(index: Path, weight_map: Mapping[str, str]) -> tuple[Path, ...]:
    files = tuple(index.parent / shard for shard in sorted(set(weight_map.values())))
    missing = [file.name for file in files if not file.exists()]
    if missing:
        reason = f"it names {len(missing)} of {len(files)} shards that are missing: {', '.join(missing[:5])}"
        raise CorruptCheckpointError(index, reason)
    return files


def _check_weight_map(index: Path, weight_map: Mapping[str, str], tensors: Sequence[TensorInfo]) -> None:
    places = {tensor.name: tensor.file.name for tensor in tensors}
    for name, shard in weight_map.items():
        if places.get(name) != shard:
            raise CorruptCheckpointError(index, f"tensor {name} is not in {shard}, where the index says it is")
