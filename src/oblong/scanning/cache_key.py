"""The key of a matrix in the cache: a digest of everything that decides its measures, bit by bit.

Two matrices share a key only if computing both would give the same bits, so that a Scan from the cache is the Scan
that computing would have made. See design/040.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass, fields
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

from oblong.checkpoints import Checkpoint, MatrixPart, TensorInfo
from oblong.records import ScanConfig
from oblong.scanning.worklist import Job
from oblong.spectra.batch import is_large

# The code between stored bytes and measures: changing it must empty the cache, whether or not somebody remembers to
# raise `measure_version`.
CODE: Final = ("oblong.spectra", "oblong.checkpoints", "oblong.checkpoints.packed")
LIBRARIES: Final = ("numpy", "scipy", "gguf")

# What does not decide values. Every other field enters, also one that is added later: a key that says too much only
# costs a hit, one that says too little gives a wrong number.
PLACE: Final = ("name", "stored_name", "file", "offset", "note", "slice_index", "packing")
NAMES: Final = ("part", "role", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """What computes: `identity` digests code, libraries, BLAS and device; `num_threads` are those of large matrices."""

    identity: str
    num_threads: int

    def for_matrix(self, num_elements: int) -> tuple[str, int]:
        """Identity and BLAS threads that decide the bits of a matrix; a small one always gets one thread."""
        return self.identity, self.num_threads if is_large(num_elements) else 1


def describe_arithmetic(device: str, num_threads: int) -> Arithmetic:
    """The arithmetic of this process."""
    return Arithmetic(identity=_identify(device), num_threads=num_threads)


@cache
def _identify(device: str) -> str:
    parts: dict[str, Any] = {
        "code": _digest_code(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "machine": platform.machine(),
        "blas": _list_blas(),
        "device": device if device == "cpu" else _name_device(device),
    }
    return _digest(parts)


def _digest_code() -> str:
    hasher = hashlib.sha256()
    for package in CODE:
        for file in sorted(_iter_code(resources.files(package)), key=lambda file: file.name):
            hasher.update(f"{package}/{file.name}\n".encode())
            hasher.update(file.read_bytes())
    # An installation without sources still has its version.
    hasher.update(metadata.version("oblong").encode())
    return hasher.hexdigest()


def _iter_code(package: Traversable) -> list[Traversable]:
    return [file for file in package.iterdir() if file.name.endswith((".py", ".json"))]


def _list_blas() -> list[list[str]]:
    """The BLAS of numpy and scipy: OpenBLAS chooses its kernels by the processor, and with them the last bits.

    torch brings another, which oblong does not use and which is there only in processes that imported torch.
    """
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    libraries = [
        library
        for library in threadpool_info()
        if library["user_api"] == "blas" and "torch" not in Path(library["filepath"]).parts
    ]
    return sorted(
        [str(library.get(name)) for name in ("internal_api", "version", "architecture")] for library in libraries
    )


def _name_device(device: str) -> list[str]:
    import torch

    return [device.partition(":")[0], torch.__version__, torch.cuda.get_device_name(device)]


class KeyMaker:
    """Makes the keys of one scan."""

    def __init__(self, checkpoint: Checkpoint, config: ScanConfig, arithmetic: Arithmetic) -> None:
        self._checkpoint = checkpoint
        self._arithmetic = arithmetic
        self._options = config.model_dump(mode="json", exclude={"include", "exclude", "device", "heads"})
        self._scales: tuple[str, Any] = ("", None)

    def make(self, job: Job, digest: str) -> str:
        """The key of a job's matrix.

        Args:
            job: one with a spectrum.
            digest: SHA-256 of the stored bytes of the whole tensor that the matrix lies in.
        """
        tensor, matrix = job.tensor, job.matrix
        rows, columns = matrix.matrix_shape
        return _digest(
            {
                "digest": digest,
                "tensor": _describe_fields(tensor, without=PLACE),
                "matrix": _describe_fields(matrix, without=NAMES),
                "scales": self._describe_scales(tensor),
                "packing": repr(tensor.packing.layout) if tensor.packing else None,
                "options": self._options,
                "arithmetic": self._arithmetic.for_matrix(rows * columns),
            }
        )

    def _describe_scales(self, tensor: TensorInfo) -> Any:
        """What else decides the values: the companion tensor, and the part of the configuration that explains it."""
        scale = self._checkpoint.find_scale(tensor)
        if scale is None:
            return None
        if self._scales[0] != scale.name:  # remembered for the experts of a stack
            quantization = self._checkpoint.config.get("quantization_config")
            found = [self._checkpoint.digest(scale), scale.dtype, scale.shape, quantization]
            self._scales = (scale.name, found)
        return self._scales[1]


def _describe_fields(thing: TensorInfo | MatrixPart, *, without: tuple[str, ...]) -> dict[str, str]:
    return {field.name: repr(getattr(thing, field.name)) for field in fields(thing) if field.name not in without}


def _digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
