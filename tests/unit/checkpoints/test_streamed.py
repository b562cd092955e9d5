"""Streaming from a Hub that is a folder: what is fetched, what is on the disk meanwhile, and what stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from oblong.checkpoints.safetensors import read_header
from oblong.cli.main import run
from oblong.scanning import scan
from oblong.scanning.store import PLACE_VARIABLE
from tests.checkpoint_builders import LLAMA_CONFIG, llama_tensors
from tests.hub_builders import COMMIT, NUM_SHARDS, REPO, FolderHub, list_files


def test_it_gives_the_scan_of_the_whole_model_shard_by_shard(hub: FolderHub, cache: Path) -> None:
    streamed, whole = scan(REPO, stream=True), scan(hub.folder)
    assert [u.model_dump(exclude={"seconds"}) for u in streamed] == [u.model_dump(exclude={"seconds"}) for u in whole]
    assert streamed.header.checkpoint == whole.header.checkpoint
    assert streamed.header.model == f"{REPO}@{COMMIT[:12]}"
    assert hub.fetched == ["config.json", *(file.name for file in sorted(hub.folder.glob("*.safetensors")))]
    assert hub.most_on_disk == 2
    assert list_files(cache) == []


def test_shards_in_the_users_own_cache_are_read_there_and_stay(
    hub: FolderHub, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(hub.folder, tmp_path / "own-cache"))
    (own / "model-00002-of-00005.safetensors").unlink()

    def find(repo: str, name: str, *, revision: str) -> str | None:
        assert (repo, revision) == (REPO, COMMIT)
        return str(own / name) if (own / name).exists() else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", find)
    before = list_files(own)
    scan(REPO, stream=True)
    assert hub.fetched_shards == ["model-00002-of-00005.safetensors"]
    assert list_files(own) == before


def test_a_tie_that_the_configuration_leaves_open_is_settled_with_two_shards(tmp_path: Path, hub: FolderHub) -> None:
    config = {key: value for key, value in LLAMA_CONFIG.items() if key != "tie_word_embeddings"}
    (hub.folder / "config.json").write_text(json.dumps(config))
    last = hub.folder / "model-00005-of-00005.safetensors"
    save_file({**load_file(last), "lm_head.weight": llama_tensors()["model.embed_tokens.weight"]}, last)
    assert scan(REPO, stream=True)["lm_head.weight"].tied_to == "model.embed_tokens.weight"
    assert hub.most_on_disk == 2


def test_a_streamed_scan_uses_the_cache_of_findings(
    hub: FolderHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLACE_VARIABLE, str(tmp_path / "findings"))
    first = scan(REPO, stream=True)
    hub.fetched.clear()
    messages: list[str] = []
    again = scan(REPO, stream=True, on_progress=lambda p: messages.append(p.message or ""))
    assert again.digest() == first.digest()
    assert any("were known from the cache" in message for message in messages)
    assert hub.most_on_disk == 2
    assert len(hub.fetched_shards) == NUM_SHARDS
    assert scan(hub.folder)["model.layers.0.mlp.up_proj.weight"].digest


def test_excluded_shards_are_never_fetched(hub: FolderHub) -> None:
    wanted = {tensor.name for tensor in read_header(hub.folder / "model-00003-of-00005.safetensors")}
    scan(REPO, stream=True, include="|".join(f"^{name}$" for name in wanted))
    assert hub.fetched_shards == ["model-00003-of-00005.safetensors"]


def test_it_says_what_it_fetches(hub: FolderHub) -> None:
    messages: list[str | None] = []
    scan(REPO, stream=True, on_progress=lambda progress: messages.append(progress.message))
    fetched = [message for message in messages if message]
    assert fetched == [f"fetching {name}" for name in hub.fetched_shards]


def test_the_command_streams(hub: FolderHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", REPO, "--stream"]) == 0
    assert "wrote tiny-llama.scan.jsonl (20 units" in capsys.readouterr().out
    assert len(hub.fetched_shards) == NUM_SHARDS
