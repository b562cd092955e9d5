"""The tensors of a model as they lie on the disk, one at a time: the ground truth that training is checked against."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from safetensors import SafetensorError, safe_open

from oblong.errors import CorruptCheckpointError, UnsupportedFormatError

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"


class TensorReader(Protocol):
    """Reads one tensor."""

    def __call__(self) -> torch.Tensor:
        """The tensor, in storage dtype, on the CPU."""


class StoredTensors:
    """Random access to the tensors of a model on the disk; none is read before it is asked for.

    Attributes:
        path: the model directory or file.
        names: tensor names as the checkpoint has them, sorted.
    """

    def __init__(self, path: Path, readers: Mapping[str, TensorReader]) -> None:
        self.path = path
        self.names = tuple(sorted(readers))
        self._readers = readers

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    def read(self, name: str) -> torch.Tensor:
        """One tensor, in its storage dtype, on the CPU.

        Raises:
            CorruptCheckpointError: its file is cut off or gone, or lacks the tensor.
        """
        return self._readers[name]()

    def iterate(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor in name order, one in memory at a time."""
        for name in self.names:
            yield name, self.read(name)


def open_stored_tensors(path: Path) -> StoredTensors:
    """Open a located model.

    Args:
        path: a directory with one safetensors file or an index and its shards; a safetensors file; or a GGUF file,
            whose tensors are those that transformers dequantises to bf16.

    Raises:
        UnsupportedFormatError: the weights are in another format.
        CorruptCheckpointError: a file cannot be read, or the index names a shard that is missing.
    """
    if path.suffix == ".gguf":
        return _open_gguf(path)
    shards = list_weight_files(path)
    return StoredTensors(path, {name: reader for shard in shards for name, reader in _open_shard(shard).items()})


def list_weight_files(path: Path) -> tuple[Path, ...]:
    """The safetensors files of a model directory, or the one that `path` is."""
    if path.is_file() and path.suffix == ".safetensors":
        return (path,)
    index = path / INDEX_FILE
    if index.exists():
        with explain_read_errors(index):
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return tuple(path / name for name in sorted(names))
    if (path / SINGLE_FILE).exists():
        return (path / SINGLE_FILE,)
    raise UnsupportedFormatError(path, f"holds neither {SINGLE_FILE} nor {INDEX_FILE}: save the model as safetensors")


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Turn a failed read into a CorruptCheckpointError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise CorruptCheckpointError(path, "the file is missing") from None
    except (SafetensorError, OSError, json.JSONDecodeError, KeyError, AttributeError) as error:
        raise CorruptCheckpointError(path, str(error)) from error


def _open_shard(shard: Path) -> Mapping[str, TensorReader]:
    # The handle lives as long as its readers: opening parses a header that may hold thousands of names.
    with explain_read_errors(shard):
        handle: Any = safe_open(shard, framework="pt")
        names = tuple(handle.keys())

    def read(name: str) -> torch.Tensor:
        with explain_read_errors(shard):
            tensor: torch.Tensor = handle.get_tensor(name)
            return tensor

    return {name: partial(read, name) for name in names}


def _open_gguf(path: Path) -> StoredTensors:
    from oblong.models.causal_lm import load_causal_lm

    model = load_causal_lm(str(path)).model
    parameters = dict(model.named_parameters())
    return StoredTensors(path, {name: partial(torch.Tensor.detach, tensor) for name, tensor in parameters.items()})
