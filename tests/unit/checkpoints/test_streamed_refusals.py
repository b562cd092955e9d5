"""What the Hub may say that cannot be true, and what else a streamed scan refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._safetensors import SafetensorsFileMetadata, SafetensorsRepoMetadata, TensorInfo
from safetensors.numpy import save_file

from oblong.checkpoints.streamed import open_streamed
from oblong.errors import (
    CorruptCheckpointError,
    DownloadError,
    ModelNotFoundError,
    OutputWriteError,
    SelectionError,
    UnsupportedFormatError,
)
from oblong.scanning import scan
from tests.checkpoint_builders import make_weights
from tests.hub_builders import REPO, FolderHub


def test_a_shard_that_is_not_what_was_announced_is_refused(hub: FolderHub) -> None:
    def spoil(name: str) -> None:
        if name.startswith("model-00002"):
            save_file({"other": make_weights(4, 4)}, hub.folder / name)

    hub.before_fetch = spoil
    with pytest.raises(CorruptCheckpointError, match=r"model-00002-of-00005\.safetensors.* not those that the Hub"):
        scan(REPO, stream=True)


def test_a_download_that_breaks_keeps_what_was_finished(hub: FolderHub) -> None:
    def break_down(name: str) -> None:
        if name.startswith("model-00005"):
            raise ConnectionError("reset by peer")

    hub.before_fetch = break_down
    with pytest.raises(DownloadError, match=r"cannot fetch model-00005.*reset by peer.*same command to go on"):
        scan(REPO, stream=True, output=Path("s.jsonl"))
    hub.before_fetch = lambda name: None
    hub.fetched.clear()
    scan(REPO, stream=True, output=Path("s.jsonl"))
    assert "model-00005-of-00005.safetensors" in hub.fetched
    assert len(hub.fetched_shards) <= 2


@pytest.mark.parametrize(
    ("shape", "offsets"), [([4, 4], (0, 63)), ([-4, -4], (0, 64)), ([4, 4], (64, 0)), ([4, 1 << 60], (0, 64))]
)
def test_a_header_that_cannot_be_true_is_refused_before_anything_is_fetched(
    shape: list[int], offsets: tuple[int, int], hub: FolderHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = SafetensorsFileMetadata(metadata={}, tensors={"w": TensorInfo("F32", shape, offsets)})
    files = SafetensorsRepoMetadata(metadata=None, sharded=False, weight_map={}, files_metadata={"a": header})
    monkeypatch.setattr(hub, "get_safetensors_metadata", lambda repo, revision: files)
    with pytest.raises(CorruptCheckpointError, match="tensor w"):
        scan(REPO, stream=True)
    assert hub.fetched == []


def test_an_index_must_not_make_us_write_elsewhere(hub: FolderHub, monkeypatch: pytest.MonkeyPatch) -> None:
    header = SafetensorsFileMetadata(metadata={}, tensors={"w": TensorInfo("F32", [4], (0, 16))})
    files = SafetensorsRepoMetadata(metadata=None, sharded=True, weight_map={}, files_metadata={"../a": header})
    monkeypatch.setattr(hub, "get_safetensors_metadata", lambda repo, revision: files)
    with pytest.raises(CorruptCheckpointError, match=r"'\.\./a', which is no file name"):
        scan(REPO, stream=True)


def test_a_model_without_safetensors_is_refused(hub: FolderHub) -> None:
    for file in hub.folder.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(UnsupportedFormatError, match="which --stream needs; scan it without --stream"):
        scan(REPO, stream=True)


def test_what_is_on_this_disk_is_not_streamed(hub: FolderHub) -> None:
    for model in (str(hub.folder), "./nothing", "a/b/c"):
        with pytest.raises(SelectionError, match="--stream is for models on the Hugging Face Hub"):
            scan(model, stream=True)


def test_two_scans_do_not_share_the_folder(hub: FolderHub) -> None:
    with open_streamed(REPO), pytest.raises(OutputWriteError, match="another scan is streaming this model"):
        scan(REPO, stream=True)


@pytest.mark.usefixtures("cache")
def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise HfHubHTTPError.__bases__[0]("no route to host")  # what its HTTP library raises

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    with pytest.raises(ModelNotFoundError, match=r"'somebody/tiny-llama'.*nor can the Hub be reached"):
        scan(REPO, stream=True)
