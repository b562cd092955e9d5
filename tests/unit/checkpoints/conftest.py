"""The Hub as the tests of streaming see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub_builders import FolderHub, write_shards


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OBLONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHub:
    hub = FolderHub(write_shards(tmp_path / "hub"))
    # Small batches, as a model of many shards has: one tensor each.
    monkeypatch.setattr("oblong.scanning.scanner.WINDOW_BYTES", 1)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("huggingface_hub.HfFileSystem", lambda: hub)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: None)
    return hub
