"""Torch pickles (`pytorch_model.bin`, `.pt`, `.pth`), loaded with `weights_only` and memory-mapped where they allow it.

The one format that needs torch. Nothing but tensors and plain containers is unpickled: a file that wants more is
refused, whatever it promises.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from oblong.checkpoints.base import Bytes, TensorInfo
from oblong.checkpoints.config import read_config, read_json_object
from oblong.checkpoints.layout import refuse_duplicates
from oblong.checkpoints.legacy_pickles import load_legacy
from oblong.errors import CorruptCheckpointError

if TYPE_CHECKING:
    import torch

SUFFIXES: Final = (".bin", ".pt", ".pth")
SINGLE_NAME: Final = "pytorch_model.bin"
INDEX_NAME: Final = "pytorch_model.bin.index.json"
WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "module")

DTYPE_NAMES: Final[Mapping[str, str]] = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass(frozen=True)
class PickleSource:
    """Opened pickles; `values` holds their memory-mapped tensors by name."""

    files: tuple[Path, ...]
    tensors: tuple[TensorInfo, ...]
    config: Mapping[str, Any]
    values: Mapping[str, torch.Tensor]
    format: str = "pickle"

    def iter_chunks(self, tensor: TensorInfo, chunk_bytes: int) -> Iterator[Bytes]:
        """Yield the stored bytes; see `TensorSource`."""
        import torch

        whole = self.values[tensor.name]
        flat = whole.contiguous().reshape(-1).view(torch.uint8)
        first = tensor.offset - whole.data_ptr()
        end = first + tensor.num_bytes
        for start in range(first, end, chunk_bytes):
            yield flat[start : min(start + chunk_bytes, end)].numpy().astype(np.uint8, copy=True)


class PickleReader:
    """Reads torch pickles and directories that hold `pytorch_model.bin` or its shards."""

    def supports(self, path: Path) -> bool:
        """Whether `path` is a pickle or a directory with `pytorch_model*.bin`."""
        return any(path.glob("pytorch_model*.bin")) if path.is_dir() else path.suffix in SUFFIXES

    def open(self, path: Path) -> PickleSource:
        """Read all files; see `Reader`."""
        files = _list_files(path)
        tensors: list[TensorInfo] = []
        values: dict[str, torch.Tensor] = {}
        for file in files:
            for name, tensor in _load(file).items():
                values[name] = tensor
                tensors.append(_make_tensor(file, name, tensor))
        refuse_duplicates(tensors)
        return PickleSource(files=files, tensors=tuple(tensors), config=read_config(path), values=values)


def _list_files(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        return (path,)
    index = path / INDEX_NAME
    if not index.exists():
        single = path / SINGLE_NAME
        return (single,) if single.exists() else tuple(sorted(path.glob("pytorch_model*.bin")))
    weight_map = read_json_object(index).get("weight_map")
    names = sorted({Path(str(shard)).name for shard in weight_map.values()}) if isinstance(weight_map, dict) else []
    missing = [name for name in names if not (path / name).exists()]
    if missing or not names:
        raise CorruptCheckpointError(index, f"it names shards that are missing: {', '.join(missing[:5]) or '(none)'}")
    return tuple(path / name for name in names)


def _load(file: Path) -> Mapping[str, torch.Tensor]:
    """The named tensors of one pickle, without running what is in it."""
    import torch

    data = _unpickle(file)
    for wrapper in WRAPPERS:
        if isinstance(data, Mapping) and isinstance(data.get(wrapper), Mapping):
            data = data[wrapper]
    if not isinstance(data, Mapping):
        reason = f"it holds a {type(data).__name__}, not named tensors"
        raise CorruptCheckpointError(file, reason, advice="save the model's state_dict()")
    tensors = {str(name): value.detach() for name, value in data.items() if isinstance(value, torch.Tensor)}
    for name, tensor in tensors.items():
        _check_tensor(file, name, tensor)
    return tensors


def _unpickle(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # The file is refused or read; what torch thinks of its age helps nobody.
            warnings.simplefilter("ignore")
            return _load_mapped(file)
    except pickle.UnpicklingError as error:
        advice = "if you trust its source, save it as safetensors with the program that made it"
        reason = f"it holds more than tensors, which oblong does not run{_name_culprit(error)}"
        raise CorruptCheckpointError(file, reason, advice=advice) from error
    except Exception as error:
        # torch reports a broken file through whatever happens to fail first: IndexError, TypeError, AssertionError, ...
        what = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CorruptCheckpointError(file, f"it is truncated or no torch file: {what}") from error


def _name_culprit(error: pickle.UnpicklingError) -> str:
    """The class or function that torch refused, from its message; what else it says advises to run the file."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f" ({found[1]})" if found else ""


def _load_mapped(file: Path) -> Any:
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
    return load_legacy(file)


def _check_tensor(file: Path, name: str, tensor: torch.Tensor) -> None:
    """Refuse what is not a plain array of numbers in the file."""
    import torch

    kind = tensor.device.type if tensor.device.type != "cpu" else str(tensor.layout).removeprefix("torch.")
    if tensor.is_quantized or tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        label = "quantized" if tensor.is_quantized else kind
        raise CorruptCheckpointError(file, f"tensor {name} is {label}", advice="save it as an ordinary tensor")
    # A stride of 0 makes any number of elements from a few bytes; copying them out would take them all.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        reason = f"tensor {name} has the shape {list(tensor.shape)} but too few bytes"
        raise CorruptCheckpointError(file, reason, advice="save it with .contiguous()")


def _make_tensor(file: Path, name: str, tensor: torch.Tensor) -> TensorInfo:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorInfo(
        name=name,
        stored_name=name,
        dtype=DTYPE_NAMES.get(dtype, dtype.upper()),
        shape=tuple(tensor.shape),
        file=file,
        # An address, not a place in the file: enough to see that two names share one storage.
        offset=tensor.data_ptr(),
        num_bytes=tensor.numel() * tensor.element_size(),
    )
