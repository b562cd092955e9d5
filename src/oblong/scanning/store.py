"""The cache of findings on the disk: files of lines that are only ever appended to, and trusted line by line.

    spectra/v1/0a7.jsonl     all entries whose key begins with 0a7, one per line: KEY CHECKSUM {json}
    spectra/v1/lock          held while something is written

A reader takes no lock: a line that is torn, flipped or half written does not match its checksum and does not exist.
See design/040 for why this and not one file per entry, or SQLite.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from oblong.checkpoints import cache_dir
from oblong.errors import OutputWriteError
from oblong.scanning.finding import Finding

PLACE_VARIABLE: Final = "OBLONG_SPECTRA_CACHE"
OFF: Final = "off"
LAYOUT: Final = "v1"
# 4096 files: a few entries in each for one model, and about a hundred kilobytes for a hundred models, so that a
# lookup can read its whole file and keep nothing in memory.
PREFIX_LENGTH: Final = 3
KEY_LENGTH: Final = 64
CHECKSUM_LENGTH: Final = 16
BODY_START: Final = KEY_LENGTH + 1 + CHECKSUM_LENGTH + 1
LOCK_TIMEOUT_SECONDS: Final = 30.0
SECONDS_PER_DAY: Final = 86_400


def locate_store() -> Path | None:
    """Where findings are kept: `$OBLONG_SPECTRA_CACHE` (None if it is `off`), else `spectra` in the cache directory."""
    override = os.environ.get(PLACE_VARIABLE)
    if override == OFF:
        return None
    return Path(override).expanduser() if override else cache_dir() / "spectra"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One valid line: `written` in seconds since 1970."""

    key: str
    written: int
    line: bytes

    @property
    def num_bytes(self) -> int:
        """What it takes in its file, the line break included."""
        return len(self.line) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How full a store is. `num_invalid` counts lines that are torn or damaged."""

    num_entries: int
    num_invalid: int
    num_bytes: int
    oldest: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What pruning removed and left; damaged and repeated lines count only in the bytes."""

    num_removed: int
    num_kept: int
    bytes_freed: int


class SpectrumStore:
    """The entries under one directory, shared by any number of processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._root = directory / LAYOUT

    def get(self, key: str) -> Finding | None:
        """What was found for a key; None when there is no entry that can be trusted.

        Raises:
            OSError: the file is there and cannot be read.
        """
        try:
            content = self._get_path(key).read_bytes()
        except FileNotFoundError:
            return None
        start = f"{key} ".encode()
        # The last valid line of a key wins: a damaged entry is repaired by writing it again.
        for line in reversed(content.split(b"\n")):
            if line.startswith(start) and (finding := _read_finding(line)) is not None:
                return finding
        return None

    def put(self, findings: Mapping[str, Finding]) -> None:
        """Add entries.

        Raises:
            OutputWriteError: the disk is full, or the place cannot be written; earlier entries are untouched.
        """
        now = int(time.time())
        by_path: dict[Path, list[bytes]] = {}
        for key, finding in findings.items():
            by_path.setdefault(self._get_path(key), []).append(_make_line(key, finding, now))
        with self._locked():
            for path, lines in by_path.items():
                with path.open("ab", buffering=0) as file:
                    # The break comes first, so that nothing is ever glued to a line that was torn before.
                    _write_all(file.write, b"".join(b"\n" + line for line in lines))

    def measure_usage(self) -> Usage:
        """Count entries and bytes."""
        entries: dict[str, int] = {}
        num_invalid = num_bytes = 0
        for path in self._iter_paths():
            content = path.read_bytes()
            num_bytes += len(content)
            for line in filter(None, content.split(b"\n")):
                entry = _parse_entry(line)
                num_invalid += entry is None
                if entry is not None:
                    entries[entry.key] = entry.written
        oldest = min(entries.values(), default=None)
        return Usage(num_entries=len(entries), num_invalid=num_invalid, num_bytes=num_bytes, oldest=oldest)

    def prune(self, *, older_than_days: float | None = None, max_bytes: int | None = None) -> Pruned:
        """Remove entries by age, then the oldest until the rest fits; damaged and repeated lines always.

        Args:
            older_than_days: entries that were written earlier go.
            max_bytes: what the entries may take in all.

        Raises:
            OutputWriteError: the place cannot be written; what was not pruned yet is untouched.
        """
        if not self._root.is_dir():
            return Pruned(num_removed=0, num_kept=0, bytes_freed=0)
        with self._locked():
            before = self.measure_usage()
            oldest_kept = self._find_oldest_kept(older_than_days, max_bytes)
            kept = [self._rewrite(path, oldest_kept) for path in list(self._iter_paths())]
        num_kept, num_bytes = sum(number for number, _ in kept), sum(size for _, size in kept)
        return Pruned(
            num_removed=before.num_entries - num_kept, num_kept=num_kept, bytes_freed=before.num_bytes - num_bytes
        )

    def clear(self) -> Pruned:
        """Remove every entry; see `prune`."""
        return self.prune(max_bytes=0)

    def _find_oldest_kept(self, older_than_days: float | None, max_bytes: int | None) -> tuple[int, str]:
        """The (age, key) from which on entries stay; the key decides among those of one second."""
        limit = (0, "") if older_than_days is None else (int(time.time() - older_than_days * SECONDS_PER_DAY), "")
        if max_bytes is None:
            return limit
        sizes = sorted(
            ((entry.written, entry.key, entry.num_bytes) for path in self._iter_paths() for entry in _read(path)),
            reverse=True,
        )
        total = 0
        youngest_gone = (0, "")
        for written, key, size in sizes:
            total += size
            if total > max_bytes:
                youngest_gone = (written, key + "~")  # "~" sorts behind every hexadecimal digit
                break
        return max(limit, youngest_gone)

    def _rewrite(self, path: Path, oldest_kept: tuple[int, str]) -> tuple[int, int]:
        """Leave only what is kept in a file; returns the number of entries and bytes."""
        entries = [entry for entry in _read(path) if (entry.written, entry.key) >= oldest_kept]
        content = b"".join(b"\n" + entry.line for entry in entries)
        if not entries:
            path.unlink()
        elif len(content) != path.stat().st_size:
            _replace(path, content)
        return len(entries), len(content)

    def _get_path(self, key: str) -> Path:
        return self._root / f"{key[:PREFIX_LENGTH]}.jsonl"

    def _iter_paths(self) -> Iterator[Path]:
        return iter(sorted(self._root.glob("*.jsonl")))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with FileLock(self._root / "lock", timeout=LOCK_TIMEOUT_SECONDS):
                yield
        except Timeout as error:
            reason = f"another process has held its lock for {LOCK_TIMEOUT_SECONDS:.0f} s"
            raise OutputWriteError(self.directory, reason) from error
        except (OSError, NotImplementedError) as error:  # the latter where the file system has no locks
            raise OutputWriteError(self.directory, getattr(error, "strerror", None) or str(error)) from error


def _read(path: Path) -> Iterable[Entry]:
    """The valid entries of a file, the last of each key."""
    found = {entry.key: entry for line in path.read_bytes().split(b"\n") if (entry := _parse_entry(line)) is not None}
    return found.values()


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _make_line(key: str, finding: Finding, written: int) -> bytes:
    data: dict[str, Any] = {"written": written, **finding.model_dump(mode="json", exclude_defaults=True)}
    body = json.dumps(data, allow_nan=False, separators=(",", ":")).encode()
    return f"{key} {_checksum(key.encode(), body)} ".encode() + body


def _open_line(line: bytes) -> bytes | None:
    """The body of a line whose checksum is right."""
    key, checksum, body = line[:KEY_LENGTH], line[KEY_LENGTH + 1 :][:CHECKSUM_LENGTH], line[BODY_START:]
    return body if checksum == _checksum(key, body).encode() else None


def _checksum(key: bytes, body: bytes) -> str:
    return hashlib.sha256(key + b" " + body).hexdigest()[:CHECKSUM_LENGTH]


def _read_finding(line: bytes) -> Finding | None:
    """Validated again, though the checksum is right: another version may have written it."""
    body = _open_line(line)
    try:
        return None if body is None else _parse(body)[1]
    except (ValueError, TypeError, KeyError, AttributeError):  # ValueError: also pydantic's and json's
        return None


def _parse_entry(line: bytes) -> Entry | None:
    if _read_finding(line) is None:
        return None
    return Entry(key=line[:KEY_LENGTH].decode(), written=_parse(line[BODY_START:])[0], line=line)


def _parse(body: bytes) -> tuple[int, Finding]:
    data = json.loads(body)
    written = int(data.pop("written"))
    return written, Finding.model_validate(data)


def _write_all(write: Any, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[write(view) :]
