"""The growing file of a full scan's singular values: whole frames only, cut back to what the Scan's lines name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from oblong.records import PackedSpectrum, Unit
from oblong.records.spectra import Frame, iter_frames, read_header, render_frame, render_header


class PartialSpectra:
    """An open `OUTPUT.spectra.partial`; whoever has it has locked `OUTPUT.partial`."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._file = file

    def begin(self) -> None:
        """Start afresh: one line, the header."""
        self._truncate(0)
        write_all(self._file, render_header())

    def append(self, unit: str, spectrum: PackedSpectrum) -> None:
        """Write one frame; after this returns, a kill does not lose it."""
        write_all(self._file, render_frame(unit, spectrum))

    def resume(self, units: Iterable[Unit]) -> tuple[Unit, ...]:
        """Keep the leading units whose singular values are here, sound, and cut off what belongs to no unit.

        Args:
            units: in the order in which they were finished, which is that of the frames.
        """
        with self._path.open("rb") as file:
            try:
                end = read_header(file)
            except ValueError:
                return ()
            kept, end = match(units, iter_sound_frames(file), end)
        self._truncate(end)
        return kept

    def finish(self, target: Path) -> None:
        """Make the file durable and give it its name."""
        os.fsync(self._file.fileno())
        self._path.replace(target)

    def _truncate(self, size: int) -> None:
        self._file.truncate(size)
        self._file.seek(size)


def match(units: Iterable[Unit], frames: Iterator[Frame], end: int) -> tuple[tuple[Unit, ...], int]:
    """The leading units whose singular values are the next frames, and where the last of these ends.

    Args:
        units: finished ones, in the order of the file.
        frames: of the same scan, written before the units they belong to.
        end: where the first frame begins.
    """
    kept = []
    for unit in units:
        if unit.measures is not None:
            frame = next(frames, None)
            if frame is None or (frame.line.unit, frame.line.digest) != (unit.name, unit.spectrum_digest):
                break
            end = frame.end
        kept.append(unit)
    return tuple(kept), end


def iter_sound_frames(file: BinaryIO) -> Iterator[Frame]:
    """The frames up to the first that is torn or damaged."""
    with suppress(ValueError):  # also pydantic's
        for frame in iter_frames(file):
            frame.read(file).unpack()
            yield frame


def open_for_appending(path: Path) -> FileIO:
    """Unbuffered, so that what was written is in the kernel's hands; created without cutting what is there."""
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")


def write_all(file: FileIO, content: bytes) -> None:
    """Write every byte: an unbuffered write may take only some."""
    data = memoryview(content)
    while data:
        data = data[file.write(data) :]
