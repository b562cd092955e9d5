"""The singular values of a Scan: `SCAN.spectra`, a file beside it that is only ever appended to.

    {"kind": "oblong.spectra", "schema_version": 1}
    {"unit": NAME, "num_values": r, "num_bytes": n, "digest": "sha256:..."}
    n bytes, and a line break; then the next unit

A text line and n bytes make a frame. Whoever wants one unit skips the bytes of the others; a torn tail is a frame that
is not whole. docs/reference/formats.md has the file to the byte.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

from pydantic import AfterValidator, Field

from oblong.errors import RecordError
from oblong.records.base import Part, check_kind, replace_bytes_on_success
from oblong.records.packed_spectrum import MAX_VALUES, PackedSpectrum

if TYPE_CHECKING:
    from oblong.records.packed_spectrum import FloatArray

SPECTRA_KIND: Final = "oblong.spectra"
SPECTRA_SCHEMA_VERSION: Final = 1
SPECTRA_SUFFIX: Final = ".spectra"

MAX_LINE_BYTES: Final = 16 << 20


def get_spectra_path(scan_file: Path) -> Path:
    """Where the singular values of a Scan lie: beside it, under its whole name."""
    return scan_file.with_name(scan_file.name + SPECTRA_SUFFIX)


class SpectraHeader(Part):
    """First line of a file of singular values."""

    kind: Annotated[str, AfterValidator(check_kind(SPECTRA_KIND))] = SPECTRA_KIND
    schema_version: int = Field(default=SPECTRA_SCHEMA_VERSION, ge=1, le=SPECTRA_SCHEMA_VERSION)


class FrameLine(Part):
    """What precedes the bytes of a unit."""

    unit: str
    num_values: int = Field(ge=1, le=MAX_VALUES)
    num_bytes: int = Field(ge=1)
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One unit in a file: its line, and where its bytes begin and the frame ends."""

    line: FrameLine
    start: int
    end: int

    def read(self, file: BinaryIO) -> PackedSpectrum:
        """Fetch the bytes.

        Raises:
            ValueError: no digest, or the file has become shorter.
        """
        file.seek(self.start)
        data = file.read(self.line.num_bytes)
        return PackedSpectrum(num_values=self.line.num_values, digest=self.line.digest, data=data)


def render_header() -> bytes:
    """The first line."""
    return _render_line(SpectraHeader())


def render_frame(unit: str, packed: PackedSpectrum) -> bytes:
    """What one unit adds to the file."""
    line = FrameLine(unit=unit, num_values=packed.num_values, num_bytes=len(packed.data), digest=packed.digest)
    return _render_line(line) + packed.data + b"\n"


def _render_line(part: Part) -> bytes:
    return (json.dumps(part.model_dump(mode="json"), ensure_ascii=False) + "\n").encode()


def read_header(file: BinaryIO) -> int:
    """Check the first line; returns where the first frame begins.

    Raises:
        ValueError: it is not that of a file of singular values.
    """
    file.seek(0)
    SpectraHeader.model_validate(_read_line(file))
    return file.tell()


def iter_frames(file: BinaryIO) -> Iterator[Frame]:
    """The frames of a file, without their bytes.

    Raises:
        ValueError: (while iterating) the header or a frame is torn or is none.
    """
    size = file.seek(0, os.SEEK_END)
    end = read_header(file)
    while end < size:
        file.seek(end)
        line = FrameLine.model_validate(_read_line(file))
        start = file.tell()
        end = start + line.num_bytes + 1
        if end > size:
            raise ValueError(f"the values of {line.unit} are cut off")
        file.seek(end - 1)
        if file.read(1) != b"\n":
            raise ValueError(f"the values of {line.unit} do not end where they should")
        yield Frame(line=line, start=start, end=end)


def _read_line(file: BinaryIO) -> Any:
    content = file.readline(MAX_LINE_BYTES)
    if not content.endswith(b"\n"):
        raise ValueError("a line is cut off")
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("a line is nested too deeply") from error


class SpectraFile(Mapping[str, PackedSpectrum]):
    """The singular values in a file, by unit; nothing is read before it is asked for.

    Every access raises RecordError where the file is missing or damaged, and says which.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._frames: Mapping[str, Frame] = {}

    def __getitem__(self, unit: str) -> PackedSpectrum:
        frame = self._index()[unit]
        try:
            with self.path.open("rb") as file:
                return frame.read(file)
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._index())

    def __len__(self) -> int:
        return len(self._index())

    def _index(self) -> Mapping[str, Frame]:
        """The frames by unit, listed again when the file was replaced."""
        try:
            status = self.path.stat()
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            if stamp != self._stamp:
                self._frames = self._list_frames()
                self._stamp = stamp
        except FileNotFoundError:
            advice = "the singular values of a Scan lie in this file beside it: move and rename both together"
            raise RecordError(self.path, f"no such file; {advice}, or scan again with --spectrum full") from None
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error
        return self._frames

    def _list_frames(self) -> Mapping[str, Frame]:
        with self.path.open("rb") as file:
            frames = list(iter_frames(file))
        found = {frame.line.unit: frame for frame in frames}
        if len(found) != len(frames):
            raise ValueError("it names a unit twice")
        return found

    def _damaged(self, error: Exception) -> RecordError:
        reason = str(error).splitlines()[0]
        return RecordError(self.path, f"is damaged: {reason}; scan again with --spectrum full --force")


def fetch_values(
    spectra: Mapping[str, PackedSpectrum] | None, unit: str, *, digest: str, num_values: int
) -> FloatArray:
    """The singular values that a Scan names for a unit, shape (num_values,), descending.

    Raises:
        RecordError: they are not there, damaged, or others.
    """
    place = getattr(spectra, "path", "this Scan")
    packed = None if spectra is None else spectra.get(unit)
    if packed is None or (packed.digest, packed.num_values) != (digest, num_values):
        reason = f"does not hold the singular values that the Scan names for {unit}"
        advice = "is it that of another Scan? Bring its own beside it, or scan again with --spectrum full --force"
        raise RecordError(place, f"{reason}: {advice}")
    try:
        return packed.unpack()
    except ValueError as error:
        reason = f"{unit} is damaged: {error}; scan again with --spectrum full --force"
        raise RecordError(place, reason) from error


def write_spectra(path: Path, spectra: Iterable[tuple[str, PackedSpectrum]], *, force: bool) -> None:
    """Write a whole file atomically; see `Record.write` for the errors."""
    with replace_bytes_on_success(path, force=force) as file:
        file.write(render_header())
        for unit, packed in spectra:
            file.write(render_frame(unit, packed))
