"""Files of a Debian package, read without root and without dpkg: an `ar` archive with a compressed tar archive."""

from __future__ import annotations

import io
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from oblong.errors import DataError

AR_MAGIC: Final = b"!<arch>\n"
AR_HEADER_BYTES: Final = 60
DATA: Final = "data.tar"
CONTROL: Final = "control.tar"
DEPENDS: Final = re.compile(r"^Depends:(.*(?:\n .*)*)", re.MULTILINE)
TAR_HAS_ZSTD: Final = sys.version_info >= (3, 14)
FAILURES: Final = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError)


def iter_files(deb: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The plain files of a package that are wanted, in archive order, read one by one.

    Args:
        deb: the package.
        wanted: by a file's path without `./`, such as `usr/share/doc/flite/copyright`.

    Raises:
        DataError: the package is broken; the message says what to do.
    """
    with _explain(deb), _open_tar(deb) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isfile() and wanted(name):
                file = archive.extractfile(member)
                yield name, b"" if file is None else file.read()


def read_dependencies(deb: Path) -> list[str]:
    """The names of the packages that a package depends on; of alternatives, all.

    Raises:
        DataError: the package is broken.
    """
    with _explain(deb), _open_tar(deb, CONTROL) as archive:
        for member in archive:
            if member.name.removeprefix("./") == "control" and (file := archive.extractfile(member)) is not None:
                match = DEPENDS.search(file.read().decode("utf-8", "replace"))
                return re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9.+-]+)", match[1] if match else "")
    return []


def unpack(deb: Path, folder: Path) -> None:
    """Unpack a package below `folder`; nothing is written outside it, and no script of the package runs.

    Raises:
        DataError: the package is broken.
    """
    with _explain(deb), _open_tar(deb) as archive:
        archive.extractall(folder, filter="tar")


@contextmanager
def _explain(deb: Path) -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        raise DataError(f"{deb}: is a broken package ({error}); delete it and try again") from error


@contextmanager
def _open_tar(deb: Path, part: str = DATA) -> Iterator[tarfile.TarFile]:
    with deb.open("rb") as file:
        name, size = _find_part(file, part)
        if name.endswith(".zst") and not TAR_HAS_ZSTD:
            with _open_with_dpkg(deb, part) as archive:
                yield archive
            return
        with tarfile.open(fileobj=io.BufferedReader(_Part(file, size)), mode="r|*") as archive:
            yield archive


def _find_part(file: IO[bytes], part: str) -> tuple[str, int]:
    """Go to the beginning of `data.tar.*` or `control.tar.*`; its name and size."""
    if file.read(len(AR_MAGIC)) != AR_MAGIC:
        raise EOFError("no ar archive")
    while len(header := file.read(AR_HEADER_BYTES)) == AR_HEADER_BYTES:
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
        if name.startswith(part):
            return name, size
        file.seek(size + size % 2, io.SEEK_CUR)
    raise EOFError(f"no {part} in it")


class _Part(io.RawIOBase):
    """The next `size` bytes of a file as a file of their own."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


@contextmanager
def _open_with_dpkg(deb: Path, part: str) -> Iterator[tarfile.TarFile]:
    program = shutil.which("dpkg-deb")
    if program is None:
        raise DataError(f"{deb}: is compressed with zstd; install dpkg-deb, or use Python 3.14 or newer")
    option = "--fsys-tarfile" if part == DATA else "--ctrl-tarfile"
    with subprocess.Popen([program, option, str(deb)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                yield archive
        finally:
            process.kill()
