"""A delta checkpoint: the tensors that a fine-tuning changed, and proof of everything it did not.

    DIRECTORY/delta.safetensors    the changed tensors, whole, in the base's storage dtype and under its names
    DIRECTORY/manifest.json        `DeltaManifest`: SHA-256 of every tensor of the base, before and after
    DIRECTORY/modules.safetensors  what was added to the base, where the manifest describes any; float32

Tensors are stored whole rather than as differences: a difference of two bf16 numbers is not exact in bf16, and a
whole tensor lets `apply_delta` and `undo_delta` be bit-exact.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from oblong.errors import (
    CorruptCheckpointError,
    OutputExistsError,
    OutputWriteError,
    PlanMismatchError,
    VerificationError,
)
from oblong.records import DeltaManifest, TensorDigest
from oblong.records.base import explain_write_errors

DELTA_FILE: Final = "delta.safetensors"
MODULES_FILE: Final = "modules.safetensors"
MANIFEST_FILE: Final = "manifest.json"

DTYPE_NAMES: Final[Mapping[torch.dtype, str]] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A delta checkpoint in memory.

    Attributes:
        manifest: what it changes and what it leaves alone.
        tensors: the changed tensors by checkpoint name, in the base's storage dtype.
        modules: tensors of the modules that were added to the base, by their names among these.
    """

    manifest: DeltaManifest
    tensors: Mapping[str, torch.Tensor]
    modules: Mapping[str, torch.Tensor] = field(default_factory=dict)


def digest_tensor(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes in C order, as a safetensors file stores them.

    Args:
        tensor: any shape (also 0-d or empty), any dtype, any device.

    Returns:
        `sha256:<hex>`.
    """
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return f"sha256:{hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()}"


def name_dtype(dtype: torch.dtype) -> str:
    """The safetensors name of a dtype, such as BF16."""
    return DTYPE_NAMES.get(dtype, str(dtype).removeprefix("torch."))


def write_delta(
    directory: Path,
    tensors: Mapping[str, torch.Tensor],
    manifest: DeltaManifest,
    *,
    modules: Mapping[str, torch.Tensor] | None = None,
    replace: bool = False,
) -> None:
    """Write a delta checkpoint; the directory appears whole or not at all.

    Args:
        directory: where to.
        tensors: the changed tensors by checkpoint name, in storage dtype.
        manifest: digests of the same tensors, and of all the frozen ones.
        modules: tensors of added modules, where the manifest describes any.
        replace: put it in the place of a directory that exists.

    Raises:
        VerificationError: `tensors` are not the ones that the manifest describes.
        OutputExistsError: `directory` exists and `replace` is false.
        OutputWriteError: the disk is full or the place is not writable; nothing is left behind.
    """
    _check_against_manifest(tensors, manifest)
    _check_modules(modules or {}, manifest)
    with create_directory(directory, replace=replace) as temporary:
        _save_tensors(tensors, temporary / DELTA_FILE)
        if manifest.modules is not None:
            _save_tensors(modules or {}, temporary / MODULES_FILE)
        manifest.write(temporary / MANIFEST_FILE)


def read_delta(directory: Path) -> Delta:
    """Read a delta checkpoint and check it against its own manifest: names, shapes, dtypes and digests.

    Raises:
        RecordError: the manifest is missing or invalid.
        CorruptCheckpointError: the tensors are missing or cannot be read.
        VerificationError: a tensor is not what the manifest says.
    """
    manifest = DeltaManifest.read(directory / MANIFEST_FILE)
    tensors = _read_tensors(directory / DELTA_FILE)
    _check_against_manifest(tensors, manifest)
    modules = {} if manifest.modules is None else _read_tensors(directory / MODULES_FILE)
    _check_modules(modules, manifest)
    return Delta(manifest=manifest, tensors=tensors, modules=modules)


def apply_delta(parameters: Mapping[str, torch.Tensor], delta: Delta) -> Mapping[str, torch.Tensor]:
    """Put the changed tensors into a model, in place.

    Args:
        parameters: the base model's tensors by checkpoint name; of the changed ones' shapes.
        delta: what to put there.

    Returns:
        Copies of what was there before, for `undo_delta`.

    Raises:
        PlanMismatchError: a changed tensor is absent from the model, has another shape, or was made from other weights;
            nothing has been touched then.
    """
    problems = [_explain_misfit(parameters.get(name), digest) for name, digest in delta.manifest.changed.items()]
    misfits = [f"{name}: {problem}" for name, problem in zip(delta.manifest.changed, problems, strict=True) if problem]
    if misfits:
        raise PlanMismatchError("the delta checkpoint was made for another model:\n  " + "\n  ".join(misfits[:5]))
    originals = {name: parameters[name].detach().clone() for name in delta.tensors}
    with torch.no_grad():
        for name, tensor in delta.tensors.items():
            parameters[name].copy_(tensor)
    return originals


def undo_delta(parameters: Mapping[str, torch.Tensor], originals: Mapping[str, torch.Tensor]) -> None:
    """Put back what `apply_delta` replaced, bit for bit."""
    with torch.no_grad():
        for name, tensor in originals.items():
            parameters[name].copy_(tensor)


@contextmanager
def create_directory(directory: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary directory beside `directory` that takes its place only if the block succeeds.

    Raises:
        OutputExistsError: `directory` exists, is not empty, and `replace` is false.
        OutputWriteError: any failure to write; what existed before is untouched.
    """
    if directory.exists() and not replace and not is_empty_directory(directory):
        raise OutputExistsError(directory)
    with explain_tensor_write_errors(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            yield temporary
            _seal(temporary)
            replace_directory(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def replace_directory(new: Path, old: Path) -> None:
    """Rename `new` to `old`; what was at `old` survives until the last moment and is then removed."""
    if not old.exists():
        new.rename(old)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{old.name}.old.", dir=old.parent))
    old.rename(retired / old.name)
    new.rename(old)
    shutil.rmtree(retired)


@contextmanager
def explain_tensor_write_errors(path: Path) -> Iterator[None]:
    """Turn the several ways in which torch and safetensors report a failed write into one OutputWriteError."""
    try:
        with explain_write_errors(path):
            yield
    except SafetensorError as error:
        raise OutputWriteError(path, f"{error}. Free some space or choose another disk") from error
    except RuntimeError as error:
        # torch.save reports a full disk as a RuntimeError of its zip writer, not as an OSError.
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise OutputWriteError(path, "torch could not write the file; the disk may be full") from error


def is_empty_directory(path: Path) -> bool:
    """Whether `path` is a directory with nothing in it."""
    return path.is_dir() and not any(path.iterdir())


def _check_against_manifest(tensors: Mapping[str, torch.Tensor], manifest: DeltaManifest) -> None:
    problems = [f"{name}: in the tensors but not in the manifest" for name in tensors.keys() - manifest.changed.keys()]
    problems += [f"{name}: in the manifest but not in the tensors" for name in manifest.changed.keys() - tensors.keys()]
    for name in sorted(tensors.keys() & manifest.changed.keys()):
        problems += [f"{name}: {text}" for text in _compare_with_digest(tensors[name], manifest.changed[name])]
    if problems:
        raise VerificationError(sorted(problems))


def _check_modules(modules: Mapping[str, torch.Tensor], manifest: DeltaManifest) -> None:
    expected = {} if manifest.modules is None else manifest.modules.tensors
    problems = [f"added {name}: in the tensors or in the manifest alone" for name in modules.keys() ^ expected.keys()]
    problems += [
        f"added {name}: its bytes are not those that the manifest was made from"
        for name in modules.keys() & expected.keys()
        if digest_tensor(modules[name]) != expected[name]
    ]
    if problems:
        raise VerificationError(sorted(problems))


def _compare_with_digest(tensor: torch.Tensor, digest: TensorDigest) -> Iterator[str]:
    if tuple(tensor.shape) != digest.shape:
        yield f"has shape {tuple(tensor.shape)}, the manifest says {digest.shape}"
    elif name_dtype(tensor.dtype) != digest.dtype:
        yield f"has dtype {name_dtype(tensor.dtype)}, the manifest says {digest.dtype}"
    elif digest_tensor(tensor) != digest.tuned:
        yield "its bytes are not those that the manifest was made from"


def _explain_misfit(parameter: torch.Tensor | None, digest: TensorDigest) -> str | None:
    if parameter is None:
        return "the model has no such tensor"
    if tuple(parameter.shape) != digest.shape:
        return f"the model has shape {tuple(parameter.shape)}, the delta {digest.shape}"
    # A model loaded in another dtype than its file's cannot show the file's digest.
    if name_dtype(parameter.dtype) == digest.dtype and digest_tensor(parameter) != digest.base:
        return "the model's weights are not those that the delta was made from"
    return None


def _save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(stored, path, metadata={"format": "pt"})


def _read_tensors(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping, only keys()
    except FileNotFoundError:
        raise CorruptCheckpointError(path, "no such file beside the manifest") from None
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CorruptCheckpointError(path, str(error)) from error


def _seal(directory: Path) -> None:
    """Flush every file to the disk, and give all the permissions that newly made files have."""
    umask = _current_umask()
    directory.chmod(0o777 & ~umask)
    for path in directory.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
