from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from oblong.checkpoints import cache_dir, demo_model_dir, locate_model
from oblong.errors import ModelNotFoundError, UnsupportedFormatError


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A Hub client that may not use the network, with an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    assert locate_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf", ".bin"])
def test_a_checkpoint_file_is_taken_as_it_is(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.touch()
    assert locate_model(str(path)) == path


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.touch()
    with pytest.raises(UnsupportedFormatError, match=r"notes\.txt: is no checkpoint"):
        locate_model(str(path))


@pytest.mark.parametrize("model", ["", "/no/such/place", "./missing.gguf", "two words", "a/b/c"])
def test_what_cannot_be_a_hub_id_never_asks_the_hub(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: pytest.fail("asked the Hub"))
    with pytest.raises(ModelNotFoundError, match="no such file or directory"):
        locate_model(model)


@pytest.mark.usefixtures("offline")
def test_an_unknown_hub_id_offline_says_what_to_do() -> None:
    with pytest.raises(ModelNotFoundError, match=r"'nobody/nothing'.*HF_HUB_OFFLINE.*local directory"):
        locate_model("nobody/nothing")


def test_a_cached_hub_model_is_found_offline(offline: Path) -> None:
    commit = "0" * 40
    snapshot = offline / "models--somebody--something" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    reference = offline / "models--somebody--something" / "refs" / "main"
    reference.parent.mkdir()
    reference.write_text(commit)
    assert locate_model("somebody/something") == snapshot


def test_the_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OBLONG_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    assert demo_model_dir().is_relative_to(tmp_path)


def test_demo_that_was_not_fetched_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OBLONG_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="oblong fetch demo-model"):
        locate_model("demo")


def test_demo_is_found_once_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OBLONG_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    demo_model_dir().mkdir(parents=True)
    (demo_model_dir() / "model.safetensors").touch()
    assert locate_model("demo") == demo_model_dir()
