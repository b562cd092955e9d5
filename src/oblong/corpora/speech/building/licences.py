"""The licences of a folder of speech sets: a table for people, and each package's own copyright file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from oblong.corpora.speech.building.deb_archive import iter_files
from oblong.corpora.speech.building.packages import Package
from oblong.corpora.speech.utterance import Utterance
from oblong.records.base import replace_on_success

LICENCES: Final = "LICENCES"
HEAD: Final = """Licences of the speech in this folder

Every line of a manifest names the licence of its clip. Clips were decoded and resampled to 16 kHz mono FLAC; texts were
brought into one convention (casing, punctuation, digits as words). The copyright files of the Debian packages are in
licences/, with the names of those who made the recordings and texts.
"""


def write_licences(folder: Path, manifests: Mapping[str, Sequence[Utterance]]) -> None:
    """Write the file LICENCES: clips per manifest, licence and source.

    Args:
        folder: of the sets.
        manifests: all of them, by file name.
    """
    lines = [HEAD]
    for name, utterances in manifests.items():
        lines.append(f"\n{name}\n")
        counts = Counter(utterance.licence for utterance in utterances)
        lines += [f"  {count:6d} clips  {licence}\n" for licence, count in counts.most_common()]
    with replace_on_success(folder / LICENCES, force=True) as file:
        file.write("".join(lines))


def copy_copyrights(folder: Path, packages: Iterable[Package]) -> None:
    """Put each package's copyright file into `folder`."""
    for package in packages:
        target = folder / f"{package.name}.copyright"
        if target.is_file():
            continue
        member = f"usr/share/doc/{package.name}/copyright"
        for _, data in iter_files(package.file, lambda name, member=member: name == member):  # type: ignore[misc]
            with replace_on_success(target, force=True) as file:
                file.write(f"{package}\n\n{data.decode('utf-8', 'replace')}")


def copy_unpacked_copyrights(folder: Path, roots: Iterable[Path]) -> None:
    """Put the copyright files of packages that were unpacked below `roots` into `folder`."""
    for root in roots:
        for file in root.glob("usr/share/doc/*/copyright"):
            with replace_on_success(folder / f"{file.parent.name}.copyright", force=True) as target:
                target.write(file.read_text(encoding="utf-8", errors="replace"))


def copy_wheel_licence(folder: Path, distribution: str) -> None:
    """Put the licence of an installed Python distribution into `folder`, where it carries one.

    A module that came without a distribution, from a source tree, has none.
    """
    try:
        files = metadata.files(distribution) or ()
    except metadata.PackageNotFoundError:
        return
    for item in files:
        if item.name.upper().startswith(("LICEN", "COPYING")):
            with replace_on_success(folder / f"{distribution}.{item.name}", force=True) as file:
                file.write(item.read_text(encoding="utf-8"))
