"""Debian packages brought to this machine without root: `apt-get download`, or files that the user has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from oblong.corpora.speech.building.deb_archive import read_dependencies
from oblong.errors import DownloadError, MissingPackageError

SIMULATED: Final = re.compile(r"^Inst (\S+) \(", re.MULTILINE)  # an upgrade has its old version in brackets

Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and the total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A Debian package on this disk."""

    name: str
    version: str
    file: Path

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageStore:
    """Packages that were downloaded, and where to get others.

    Attributes:
        folder: keeps what is downloaded.
        given: a folder of the user's own `.deb` files; where it is set, nothing is downloaded.
    """

    folder: Path
    given: Path | None = None

    def obtain(self, names: Sequence[str], report: Report) -> dict[str, Package]:
        """The packages by name, downloaded where they are missing.

        Raises:
            MissingPackageError: `given` lacks one, or this machine has no apt-get.
            DownloadError: apt-get failed; the message holds its own.
        """
        found = {name: package for name in names if (package := self._find(name)) is not None}
        missing = [name for name in names if name not in found]
        if missing and self.given is not None:
            raise MissingPackageError(missing, f"{self.given} does not hold them")
        for name in missing:
            report(f"downloading {name}", len(found), len(names))
            self._download(name)
            package = self._find(name)
            if package is None:
                raise DownloadError(f"apt-get download {name} ended well but left no {name}_*.deb")
            found[name] = package
        return {name: found[name] for name in names}

    def _find(self, name: str) -> Package | None:
        files = sorted((self.given or self.folder).glob(f"{name}_*.deb"))
        if not files:
            return None
        return Package(name=name, version=unquote(files[-1].name.split("_")[1].removesuffix(".deb")), file=files[-1])

    def _download(self, name: str) -> None:
        """Into a folder beside, then moved: a broken download leaves nothing under the package's name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="download-") as scratch:
            _run_apt(["download", name], cwd=Path(scratch), packages=[name])
            for file in Path(scratch).glob("*.deb"):
                file.replace(self.folder / file.name)

    def resolve(self, names: Sequence[str]) -> list[str]:
        """These packages and what they need that is not installed here; with `given`, what they need that it holds.

        Raises:
            MissingPackageError: this machine has no apt-get.
            DownloadError: apt-get failed.
        """
        if self.given is not None:
            return self._collect_given(names)
        printed = _run_apt(["install", "--simulate", "--no-install-recommends", *names], packages=names)
        return sorted({*names, *SIMULATED.findall(printed)})

    def _collect_given(self, names: Sequence[str]) -> list[str]:
        collected: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in collected and ((package := self._find(name)) is not None or name in names):
                collected.add(name)
                waiting += read_dependencies(package.file) if package is not None else []
        return sorted(collected)


def _run_apt(arguments: Sequence[str], *, packages: Sequence[str], cwd: Path | None = None) -> str:
    program = shutil.which("apt-get")
    if program is None:
        raise MissingPackageError(packages, "this machine has no apt-get")
    command = [program, "-q", *arguments]
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise DownloadError(
            f"{' '.join(['apt-get', *arguments])} failed: {lines[-1] if lines else done.stderr.strip()[-200:]}. "
            "Check the network; where apt does not know the package, run `apt-get update` as root"
        )
    return done.stdout
