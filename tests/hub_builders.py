"""A stand-in for the Hub that is a folder, with a tiny Llama in shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from huggingface_hub.errors import NotASafetensorsRepoError
from huggingface_hub.utils._safetensors import SafetensorsFileMetadata, SafetensorsRepoMetadata, TensorInfo

from oblong.checkpoints import TensorInfo as StoredTensorInfo
from oblong.checkpoints.safetensors import read_header
from tests.checkpoint_builders import LLAMA_CONFIG, llama_tensors, write_sharded

REPO = "somebody/tiny-llama"
NUM_SHARDS = 5
COMMIT = "0123456789abcdef" * 2 + "01234567"


class FolderHub:
    """A stand-in for the Hub: counts what is fetched and watches how many shards are on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commit = COMMIT
        self.fetched: list[str] = []
        self.peeked: list[str] = []
        self.most_on_disk = 0
        self.before_fetch: Callable[[str], None] = lambda name: None

    def model_info(self, repo: str, *, files_metadata: bool) -> Any:
        assert (repo, files_metadata) == (REPO, True)
        files = (SimpleNamespace(rfilename=f.name, size=f.stat().st_size) for f in self.folder.iterdir())
        return SimpleNamespace(sha=self.commit, siblings=list(files))

    def get_safetensors_metadata(self, repo: str, *, revision: str) -> SafetensorsRepoMetadata:
        assert (repo, revision) == (REPO, self.commit)
        files = {file.name: make_metadata(file) for file in self.folder.glob("*.safetensors")}
        if not files:
            raise NotASafetensorsRepoError("no safetensors")
        weight_map = {tensor: name for name, header in files.items() for tensor in header.tensors}
        return SafetensorsRepoMetadata(metadata=None, sharded=True, weight_map=weight_map, files_metadata=files)

    def open(self, path: str, mode: str, *, cache_type: str) -> Any:
        """A file as HfFileSystem opens it, for reading ranges."""
        assert (mode, cache_type) == ("rb", "none")
        repo, _, name = path.partition(f"@{self.commit}/")
        assert repo == REPO
        self.peeked.append(name)
        return (self.folder / name).open(mode)

    def download(self, repo: str, name: str, *, revision: str, local_dir: Path) -> str:
        assert (repo, revision) == (REPO, self.commit)
        target = local_dir / name
        if not target.exists():
            self.before_fetch(name)
            self.fetched.append(name)
            shutil.copyfile(self.folder / name, target)
        shards = [file for file in local_dir.rglob("*") if file.suffix in (".safetensors", ".incomplete")]
        self.most_on_disk = max(self.most_on_disk, len(shards))
        return str(target)

    @property
    def fetched_shards(self) -> list[str]:
        return [name for name in self.fetched if name.endswith(".safetensors")]


def make_metadata(file: Path) -> SafetensorsFileMetadata:
    tensors = read_header(file)
    start = min(tensor.offset for tensor in tensors)
    entries = {tensor.name: make_entry(tensor, start) for tensor in tensors}
    return SafetensorsFileMetadata(metadata={}, tensors=entries)


def make_entry(tensor: StoredTensorInfo, start: int) -> TensorInfo:
    begin = tensor.offset - start
    dtype: Any = tensor.dtype
    return TensorInfo(dtype, list(tensor.shape), (begin, begin + tensor.num_bytes))


def write_shards(folder: Path) -> Path:
    tensors = list(llama_tensors().items())
    names = [f"model-{index + 1:05}-of-{NUM_SHARDS:05}.safetensors" for index in range(NUM_SHARDS)]
    write_sharded(folder, {name: dict(tensors[index::NUM_SHARDS]) for index, name in enumerate(names)})
    (folder / "config.json").write_text(json.dumps(LLAMA_CONFIG))
    return folder


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "lock")
