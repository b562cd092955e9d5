"""What all records share: frozen, versioned, strict JSON, written atomically."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any, BinaryIO, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from oblong.errors import OutputExistsError, OutputWriteError, RecordError

PACKAGES_THAT_MATTER = ("torch", "transformers", "safetensors", "numpy", "scipy", "accelerate", "gguf")


class Part(BaseModel):
    """A frozen piece of a record. A non-finite float is refused: it must become null plus a status."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


PartT = TypeVar("PartT", bound=Part)


class Provenance(Part):
    """Who made a record, with what, when."""

    oblong_version: str
    python_version: str
    platform: str
    packages: Mapping[str, str]
    created: str
    command: tuple[str, ...] = ()

    @classmethod
    def here(cls) -> Self:
        """Describe this process: versions from package metadata, UTC time to the second."""
        packages = {}
        for name in PACKAGES_THAT_MATTER:
            with suppress(metadata.PackageNotFoundError):
                packages[name] = metadata.version(name)
        return cls(
            oblong_version=metadata.version("oblong"),
            python_version=platform.python_version(),
            platform=f"{platform.system()} {platform.machine()}",
            packages=packages,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=tuple(Path(part).name if index == 0 else part for index, part in enumerate(sys.argv)),
        )


class Record(Part):
    """A whole record: one file, one kind, one schema version."""

    def write(self, path: Path, *, force: bool = False) -> None:
        """Write as JSON (`.json`) or YAML (`.yaml`, `.yml`), atomically.

        Raises:
            OutputExistsError: `path` exists and `force` is false.
            OutputWriteError: the disk is full or the place is not writable; the old file survives.
        """
        data = self.model_dump(mode="json")
        with replace_on_success(path, force=force) as file:
            if path.suffix in (".yaml", ".yml"):
                yaml.safe_dump(data, file, sort_keys=False, allow_unicode=True, width=110)
            else:
                json.dump(data, file, allow_nan=False, ensure_ascii=False, indent=1)
                file.write("\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record back.

        Raises:
            RecordError: missing, not JSON or YAML, another kind, a newer schema, or invalid fields.
        """
        return validate(cls, load_document(path), path)

    def digest(self) -> str:
        """SHA-256 of what the record says, not of when and where it was written: two equal Plans have one digest.

        Fields at their defaults do not count: a later version that adds an optional field finds the same digest.
        """
        return digest_bytes(self.model_dump_json(exclude={"provenance"}, exclude_defaults=True).encode())


def load_document(path: Path) -> Any:
    """Parse a JSON or YAML file; a syntax error names the file and the place."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecordError(path, "no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(path, f"cannot be read: {error}") from error
    try:
        return yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise RecordError(path, f"is not valid {path.suffix.lstrip('.') or 'JSON'}: {error}") from error


def validate(cls: type[PartT], data: Any, path: Path | str) -> PartT:
    """Turn parsed data into a record part; every invalid field is named."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(describe_validation_error(error))
        raise RecordError(path, f"is not a valid {cls.__name__}: {problems}") from error


def describe_validation_error(error: ValidationError) -> list[str]:
    """One `path.to.field: message` per mistake."""
    return [
        f"{'.'.join(str(part) for part in item['loc']) or '(whole file)'}: {item['msg']}" for item in error.errors()
    ]


def digest_bytes(data: bytes | memoryview) -> str:
    """SHA-256 as `sha256:<hex>`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@contextmanager
def replace_on_success(path: Path, *, force: bool) -> Iterator[IO[str]]:
    """Open a temporary text file beside `path` that takes its place only if the block succeeds.

    Raises:
        OutputExistsError: `path` exists and `force` is false.
        OutputWriteError: any OSError while writing; nothing is left behind and nothing is lost.
    """
    with replace_bytes_on_success(path, force=force) as file:
        text = io.TextIOWrapper(file, encoding="utf-8")
        try:
            yield text
        finally:
            text.detach()  # flushes, and leaves closing to whoever opened


@contextmanager
def replace_bytes_on_success(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """The same for bytes; see `replace_on_success`."""
    if path.exists() and not force:
        raise OutputExistsError(path)
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_current_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputWriteError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            reason = "the disk is full; free some space or choose an output on another disk. Nothing was overwritten"
        else:
            reason = f"{error.strerror or error}; choose another place. Nothing was overwritten"
        raise OutputWriteError(path, reason) from error


def _current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def check_kind(expected: str) -> Callable[[str], str]:
    """Validator: a record of another kind is named for what it is."""

    def check(kind: str) -> str:
        if kind != expected:
            raise ValueError(f"this file is a {kind!r} record, not {expected!r}")
        return kind

    return check
