"""The growing file of a running scan: whole lines only, resumable, renamed to its own name when it is complete.

With `--spectrum full` a second file grows beside it (partial_spectra.py), always one step ahead: the singular values of
a unit are written before its line. The lock on the first covers both.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from oblong.errors import OutputWriteError
from oblong.records import PackedSpectrum, ScanHeader, Unit
from oblong.records.scan import render_line, write_lines
from oblong.records.spectra import get_spectra_path
from oblong.scanning.partial_spectra import PartialSpectra, open_for_appending, write_all

PARTIAL_SUFFIX: Final = ".partial"


def get_partial_path(output: Path) -> Path:
    """Where the lines live until the scan is complete."""
    return output.with_name(output.name + PARTIAL_SUFFIX)


class PartialScan:
    """An open, locked `OUTPUT.partial`. `header` is the file's own: that of the run that began it.

    Its lines are in checkpoint order when one machine scans; several machines append as they finish.
    """

    def __init__(self, output: Path, file: FileIO, header: ScanHeader, spectra: PartialSpectra | None = None) -> None:
        self.output = output
        self.header = header
        self.num_lost = 0
        """Finished units that `resume` gave up, because their singular values are gone."""
        self._file = file
        self._spectra = spectra
        self._names: list[str] = []

    def resume(self, names: Sequence[str]) -> tuple[Unit, ...] | None:
        """Keep what an interrupted scan of the same bytes wrote, and cut off the rest.

        Args:
            names: of all units of this scan; a kept line must be one of them, and the first of its name.

        Returns:
            The units that need not be made again, in the order of the file; None when the file is of another scan.
        """
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        header = _parse_header(lines[0]) if lines else None
        if header is None or not is_same_scan(header, self.header):
            return None
        units = self._match_spectra(tuple(_iter_units(lines[1:], names)))
        self.header = header
        self._names = [unit.name for unit in units]
        self._truncate(sum(len(line) for line in lines[: 1 + len(units)]))
        return units

    def _match_spectra(self, units: tuple[Unit, ...]) -> tuple[Unit, ...]:
        if self._spectra is None:
            return units
        with _explain(self.output):
            kept = self._spectra.resume(units)
        self.num_lost = len(units) - len(kept)
        return kept

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written yet."""
        return os.fstat(self._file.fileno()).st_size == 0

    def begin(self, header: ScanHeader) -> None:
        """Start afresh: one line, the header."""
        self._truncate(0)
        with _explain(self.output):
            if self._spectra is not None:
                self._spectra.begin()
            else:  # an interrupted scan with --spectrum full may have left some
                get_partial_path(get_spectra_path(self.output)).unlink(missing_ok=True)
        self.header = header
        self._names = []
        self._write(render_line(header))

    def append(self, unit: Unit, spectrum: PackedSpectrum | None = None) -> None:
        """Write one line; after this returns, a kill does not lose it."""
        if self._spectra is not None and spectrum is not None:
            with _explain(self.output):
                self._spectra.append(unit.name, spectrum)
        self._write(render_line(unit))
        self._names.append(unit.name)

    def finish(self, units: Sequence[Unit]) -> None:
        """Make the files durable and give them their names; what had those names is replaced only now.

        Args:
            units: all units, in checkpoint order; they are written again where the lines are in another.
        """
        is_replacing = self.output.exists()
        with _explain(self.output):
            if self._spectra is not None:
                self._spectra.finish(get_spectra_path(self.output))
        if self._names != [unit.name for unit in units]:
            write_lines(self.output, self.header, units, force=True)
            get_partial_path(self.output).unlink()
        else:
            with _explain(self.output):
                os.fsync(self._file.fileno())
                get_partial_path(self.output).replace(self.output)
        if is_replacing and self._spectra is None:
            get_spectra_path(self.output).unlink(missing_ok=True)  # that of the Scan which was replaced

    def _write(self, line: str) -> None:
        with _explain(self.output):
            write_all(self._file, line.encode())

    def _truncate(self, size: int) -> None:
        with _explain(self.output):
            self._file.truncate(size)
            self._file.seek(size)


@contextmanager
def open_partial(output: Path, header: ScanHeader) -> Iterator[PartialScan]:
    """Open the partial file of an output, or make it; only one process at a time may.

    Raises:
        OutputWriteError: not writable, or another process is writing it.
    """
    path = get_partial_path(output)
    with _explain(output):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_for_appending(path)
    with ExitStack() as stack:
        stack.enter_context(file)
        _lock(file, output)
        spectra = None
        if header.config.spectrum == "full":
            with _explain(output):
                spectra = stack.enter_context(_open_spectra(output))
        yield PartialScan(output, file, header, spectra)


@contextmanager
def _open_spectra(output: Path) -> Iterator[PartialSpectra]:
    target = get_spectra_path(output)
    path = get_partial_path(target)
    if target.exists() and not path.exists() and not output.exists():
        # `finish` names this file first: the scan was interrupted before it could name the other.
        target.replace(path)
    with open_for_appending(path) as file:
        yield PartialSpectra(path, file)


def is_same_scan(one: ScanHeader, other: ScanHeader) -> bool:
    """Whether two headers describe the same work on the same layout (who did it, and when, may differ)."""
    return one.model_dump(exclude={"provenance"}) == other.model_dump(exclude={"provenance"})


def _parse_header(line: bytes) -> ScanHeader | None:
    if not line.endswith(b"\n"):
        return None
    with suppress(ValidationError, ValueError):
        return ScanHeader.model_validate(json.loads(line))
    return None


def _iter_units(lines: Sequence[bytes], names: Sequence[str]) -> Iterator[Unit]:
    """The leading lines that are whole, valid and of units that are still to be made."""
    missing = set(names)
    for line in lines:
        try:
            unit = Unit.model_validate(json.loads(line))
        except ValueError:  # also pydantic's: a torn or foreign line
            return
        if unit.name not in missing or not line.endswith(b"\n"):
            return
        missing.remove(unit.name)
        yield unit


def _lock(file: FileIO, output: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OutputWriteError(output, "another scan is writing it; wait for that one or choose another -o") from error


@contextmanager
def _explain(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        partial = get_partial_path(output).name
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        cause = "the disk is full" if full else str(error.strerror or error)
        advice = f"what was finished is kept in {partial}: free some space and run the same command to go on"
        raise OutputWriteError(output, f"{cause}; {advice if full else 'choose another -o'}") from error
