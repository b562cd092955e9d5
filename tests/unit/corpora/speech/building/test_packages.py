"""Debian packages: read without dpkg, downloaded without root, and a broken one said to be so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from oblong.corpora.speech.building.deb_archive import iter_files, unpack
from oblong.corpora.speech.building.packages import PackageStore
from oblong.errors import DataError, DownloadError, MissingPackageError
from tests.sound_builders import write_deb


def ignore(stage: str, done: int, total: int) -> None:
    """A progress callback that listens to nothing."""


def test_files_of_a_package_are_read_without_unpacking(tmp_path: Path) -> None:
    deb = write_deb(tmp_path, "odd", {"usr/share/a.txt": b"odd", "usr/share/b.bin": b"x" * 100_001})
    assert dict(iter_files(deb, lambda name: name.startswith("usr/share/"))) == {
        "usr/share/doc/odd/copyright": b"do what you like\n",
        "usr/share/a.txt": b"odd",
        "usr/share/b.bin": b"x" * 100_001,
    }
    assert list(iter_files(deb, lambda name: name == "usr/share/a.txt")) == [("usr/share/a.txt", b"odd")]


def test_a_package_is_unpacked_below_the_folder(tmp_path: Path) -> None:
    unpack(write_deb(tmp_path, "tool", {"usr/bin/tool": b"#!/bin/sh\n"}), tmp_path / "root")
    tool = tmp_path / "root" / "usr" / "bin" / "tool"
    assert tool.stat().st_mode & 0o100


def test_a_package_cannot_write_outside_the_folder(tmp_path: Path) -> None:
    deb = write_deb(tmp_path, "evil", {"../../escaped": b"x"})
    with pytest.raises(DataError, match="is a broken package"):
        unpack(deb, tmp_path / "a" / "b")
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("damage", ["cut", "no archive", "no data"])
def test_a_broken_package_is_named(tmp_path: Path, damage: str) -> None:
    deb = write_deb(tmp_path, "a", {"x": bytes(range(256)) * 200})
    whole = deb.read_bytes()
    deb.write_bytes(
        {"cut": whole[:-120], "no archive": b"<html>", "no data": whole[: whole.index(b"data.tar")]}[damage]
    )
    with pytest.raises(DataError, match=r"a_1\.0-1_all\.deb: is a broken package .* delete it and try again"):
        list(iter_files(deb, lambda name: True))


def test_given_packages_are_used_and_a_missing_one_is_named(tmp_path: Path) -> None:
    write_deb(tmp_path / "given", "klettres-data", {}, version="4%3a22.12.3-1")
    store = PackageStore(folder=tmp_path / "kept", given=tmp_path / "given")
    assert str(store.obtain(["klettres-data"], ignore)["klettres-data"]) == "klettres-data 4:22.12.3-1"
    with pytest.raises(
        MissingPackageError, match=r"cannot get flite: .*given does not hold them.*apt-get download flite"
    ):
        store.obtain(["klettres-data", "flite"], ignore)
    assert not (tmp_path / "kept").exists()


def test_given_libraries_that_a_program_needs_come_along(tmp_path: Path) -> None:
    write_deb(tmp_path, "espeak-ng", {}, depends="libc6, libespeak-ng1 (>= 1.51), pulse | libsonic0")
    write_deb(tmp_path, "libespeak-ng1", {}, depends="espeak-ng-data (= 1.51),\n espeak-ng")
    for name in ("espeak-ng-data", "libsonic0", "libreoffice-help-de"):
        write_deb(tmp_path, name, {})
    store = PackageStore(folder=tmp_path, given=tmp_path)
    assert store.resolve(["espeak-ng"]) == ["espeak-ng", "espeak-ng-data", "libespeak-ng1", "libsonic0"]
    assert store.resolve(["flite"]) == ["flite"]


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake apt-get that copies packages from a folder, and counts its calls in a file."""
    folder, tools = tmp_path / "archive", tmp_path / "tools"
    tools.mkdir()
    program = tools / "apt-get"
    program.write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/calls
if [ "$2" = install ]; then printf "Inst libc6 [2.1] (2.2 x)\\nInst libodd1 (1.0 x)\\n"; exit 0; fi
cp {folder}/$3_*.deb . || {{ echo "E: Unable to locate package $3" >&2; exit 100; }}
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return folder


def test_a_package_is_downloaded_once(tmp_path: Path, apt: Path) -> None:
    write_deb(apt, "flite", {}, version="2.2-5")
    store = PackageStore(folder=tmp_path / "kept")
    assert store.obtain(["flite"], ignore)["flite"].version == "2.2-5"
    assert store.obtain(["flite"], ignore)["flite"].file == tmp_path / "kept" / "flite_2.2-5_all.deb"
    assert (tmp_path / "calls").read_text() == "-q download flite\n"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["flite_2.2-5_all.deb"]


def test_what_apt_says_is_passed_on(tmp_path: Path, apt: Path) -> None:
    with pytest.raises(DownloadError, match="apt-get download nothing failed: E: Unable to locate package nothing"):
        PackageStore(folder=tmp_path / "kept").obtain(["nothing"], ignore)
    assert list((tmp_path / "kept").iterdir()) == []


def test_libraries_that_are_not_installed_come_along(tmp_path: Path, apt: Path) -> None:
    assert PackageStore(folder=tmp_path / "kept").resolve(["flite"]) == ["flite", "libodd1"]


def test_a_machine_without_apt_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"this machine has no apt-get.*pass --packages FOLDER") as caught:
        PackageStore(folder=tmp_path / "kept").obtain(["flite"], ignore)
    assert caught.value.exit_code == 2
