"""What a checkpoint holds, from its headers alone: the record of it, its digest, and names that occur twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from oblong.checkpoints.base import TensorInfo, TensorSource
from oblong.errors import CorruptCheckpointError
from oblong.records import CheckpointFile, CheckpointInfo


def describe(source: TensorSource, files: tuple[CheckpointFile, ...] | None = None) -> CheckpointInfo:
    """The record of what an opened checkpoint holds; `files` are given where they are not on this disk."""
    if files is None:
        files = tuple(CheckpointFile(name=file.name, num_bytes=file.stat().st_size) for file in source.files)
    return CheckpointInfo(
        format=source.format,
        files=files,
        layout_digest=compute_layout_digest(source.tensors),
        num_tensors=len(source.tensors),
        num_parameters=sum(t.num_parameters for t in source.tensors if t.companion_of is None),
        architecture=_get_architecture(source.config),
    )


def _get_architecture(config: Mapping[str, Any]) -> str | None:
    declared = config.get("architectures")
    named = declared[0] if isinstance(declared, list) and declared else config.get("model_type")
    return named if isinstance(named, str) else None


def compute_layout_digest(tensors: tuple[TensorInfo, ...]) -> str:
    """SHA-256 over every tensor's name, dtype and shape, in checkpoint order; the data do not enter."""
    hasher = hashlib.sha256()
    for tensor in tensors:
        hasher.update(f"{tensor.name}\t{tensor.dtype}\t{list(tensor.shape)}\n".encode())
    return f"sha256:{hasher.hexdigest()}"


def refuse_duplicates(tensors: Sequence[TensorInfo]) -> None:
    """Raise CorruptCheckpointError when two tensors have one name."""
    first: dict[str, TensorInfo] = {}
    for tensor in tensors:
        other = first.setdefault(tensor.name, tensor)
        if other is not tensor:
            advice = "name the file to read, or remove the one that does not belong to the model"
            raise CorruptCheckpointError(
                tensor.file, f"tensor {tensor.name} is also in {other.file.name}", advice=advice
            )
