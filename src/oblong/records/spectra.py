"""The singular values of a Scan: `SCAN.spectra`, a file beside it that is only ever appended to.

    {"kind": "oblong.spectra", "schema_version": 1}
    {"unit": NAME, "num_values": r, "num_bytes": n, "digest": "sha256:..."}
    n bytes, and a line break; then the next unit

A text line and n bytes make a frame. Whoever wants one unit skips the bytes of the others; a torn tail is a frame that
is not whole. docs/reference/formats.md has the file to the byte.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from oblong.errors import RecordError
from oblong.records.base import Part, check_kind, digest_bytes, replace_bytes_on_success

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray: TypeAlias = NDArray[np.float64]

SPECTRA_KIND: Final = "oblong.spectra"
SPECTRA_SCHEMA_VERSION: Final = 1
SPECTRA_SUFFIX: Final = ".spectra"

FLOAT_BYTES: Final = 8
# No matrix has as many rows and columns; what a forged file can make us inflate ends at 128 MiB.
MAX_VALUES: Final = 1 << 24
MAX_LINE_BYTES: Final = 16 << 20


def get_spectra_path(scan_file: Path) -> Path:
    """Where the singular values of a Scan lie: beside it, under its whole name."""
    return scan_file.with_name(scan_file.name + SPECTRA_SUFFIX)


def _decode(data: Any) -> Any:
    return base64.b64decode(data, validate=True) if isinstance(data, str) else data


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


class PackedSpectrum(Part):
    """The singular values of one matrix without loss: the bytes of equal significance together, deflated.

    Neighbours of a descending sequence share their leading bytes, which therefore compress; the trailing ones do not.
    Gaussian weights take 6.2 bytes per value.
    """

    num_values: int = Field(ge=1, le=MAX_VALUES)
    digest: str = Field(pattern="^sha256:[0-9a-f]{64}$", description="of the values as little-endian float64")
    data: Annotated[bytes, BeforeValidator(_decode), PlainSerializer(_encode, when_used="json")]

    @classmethod
    def pack(cls, values: FloatArray) -> Self:
        """Sort and compress.

        Args:
            values: shape (r,), not negative, finite. The ends come from other iterations than the rest, so
                neighbours may be out of order in the last digits.
        """
        import numpy as np

        raw = np.sort(values)[::-1].astype("<f8").tobytes()
        planes = b"".join(raw[index::FLOAT_BYTES] for index in range(FLOAT_BYTES))
        return cls(num_values=values.size, digest=digest_bytes(raw), data=zlib.compress(planes))

    def unpack(self) -> FloatArray:
        """The values, shape (r,), float64, descending.

        Raises:
            ValueError: the data are not `num_values` descending singular values with this digest.
        """
        import numpy as np

        planes = _inflate(self.data, FLOAT_BYTES * self.num_values)
        raw = bytearray(len(planes))
        for index in range(FLOAT_BYTES):
            raw[index::FLOAT_BYTES] = planes[index * self.num_values : (index + 1) * self.num_values]
        if digest_bytes(memoryview(raw)) != self.digest:
            raise ValueError("the values do not have their digest")
        values = np.frombuffer(raw, "<f8").astype(np.float64)
        if not (np.isfinite(values).all() and values[-1] >= 0 and (np.diff(values) <= 0).all()):
            raise ValueError("the values are not finite, not negative and descending")
        return values


def _inflate(data: bytes, size: int) -> bytes:
    """Decompress to exactly `size` bytes, and never to more than one more."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"the values cannot be decompressed: {error}") from error
    if len(content) != size or not inflater.eof or inflater.unused_data:
        raise ValueError("the number of values is not the one announced")
    return content


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


def write_spectra(path: Path, spectra: Iterable[tuple[str, PackedSpectrum]], *, force: bool) -> None:
    """Write a whole file atomically; see `Record.write` for the errors."""
    with replace_bytes_on_success(path, force=force) as file:
        file.write(render_header())
        for unit, packed in spectra:
            file.write(render_frame(unit, packed))
