"""Streaming from a Hub that is a folder: what is fetched, what is on the disk meanwhile, and what stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError
from huggingface_hub.utils._safetensors import SafetensorsFileMetadata, SafetensorsRepoMetadata, TensorInfo
from safetensors.numpy import load_file, save_file

from oblong.checkpoints import TensorInfo as StoredTensorInfo
from oblong.checkpoints.safetensors import read_header
from oblong.checkpoints.streamed import open_streamed
from oblong.cli.main import run
from oblong.errors import (
    CorruptCheckpointError,
    DownloadError,
    ModelNotFoundError,
    OutputWriteError,
    SelectionError,
    UnsupportedFormatError,
)
from oblong.records import Scan, Unit
from oblong.scanning import ScanProgress, scan
from oblong.scanning.store import PLACE_VARIABLE
from tests import packed_builders as build
from tests.checkpoint_builders import LLAMA_CONFIG, llama_tensors, make_weights, write_sharded, write_typed

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


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "lock")


def test_it_gives_the_scan_of_the_whole_model_shard_by_shard(hub: FolderHub, cache: Path) -> None:
    streamed, whole = scan(REPO, stream=True), scan(hub.folder)
    assert [u.model_dump(exclude={"seconds"}) for u in streamed] == [u.model_dump(exclude={"seconds"}) for u in whole]
    assert streamed.header.checkpoint == whole.header.checkpoint
    assert streamed.header.model == f"{REPO}@{COMMIT[:12]}"
    assert hub.fetched == ["config.json", *(file.name for file in sorted(hub.folder.glob("*.safetensors")))]
    assert hub.most_on_disk == 2
    assert list_files(cache) == []


def stop_after(units: int) -> Callable[[ScanProgress], None]:
    def stop(progress: ScanProgress) -> None:
        if progress.done >= units:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("units", [1, 5, 9, 19])
def test_an_interrupted_scan_goes_on_without_fetching_again_what_was_finished(
    units: int, hub: FolderHub, cache: Path
) -> None:
    output = Path("s.jsonl")
    with pytest.raises(KeyboardInterrupt):
        scan(REPO, stream=True, output=output, on_progress=stop_after(units), num_threads=1)
    assert 1 <= len([name for name in list_files(cache) if name.endswith(".safetensors")]) <= 2
    finished = {unit.tensor for unit in read_partial(output)}
    hub.fetched.clear()
    messages: list[str] = []
    resumed = scan(REPO, stream=True, output=output, on_progress=lambda p: messages.append(p.message or ""))
    assert f"resuming: {units} of 20 units were finished before" in messages
    assert resumed.digest() == scan(REPO, stream=True).digest()
    assert hub.most_on_disk == 2
    assert list_files(cache) == []
    assert all(not shard_is_finished(hub, name, finished) for name in hub.fetched_shards[:-NUM_SHARDS])


def read_partial(output: Path) -> list[Unit]:
    lines = output.with_name(f"{output.name}.partial").read_text().splitlines()[1:]
    return [Unit.model_validate_json(line) for line in lines]


def shard_is_finished(hub: FolderHub, name: str, finished: set[str]) -> bool:
    return {tensor.name for tensor in read_header(hub.folder / name)} <= finished


def test_kill_minus_nine_leaves_at_most_two_shards_and_the_next_run_ends_it(tmp_path: Path) -> None:
    """In a process of its own, which dies without any cleaning up while it fetches the fourth shard."""
    write_shards(tmp_path / "hub")
    code = (
        "import os, sys, tests.unit.checkpoints.test_streamed as t\n"
        "from pathlib import Path\n"
        "hub = t.FolderHub(Path('hub'))\n"
        "hub.before_fetch = lambda name: os._exit(9) if name.startswith(sys.argv[1]) else None\n"
        "import huggingface_hub as h, oblong.scanning.scanner as s\n"
        "s.WINDOW_BYTES = 1\n"
        "h.HfApi, h.hf_hub_download, h.try_to_load_from_cache = lambda: hub, hub.download, lambda *a, **k: None\n"
        "scan = t.scan(t.REPO, stream=True, output=Path('s.jsonl'))\n"
        "print(hub.most_on_disk, *hub.fetched)\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OBLONG_CACHE": str(tmp_path / "cache"), "PYTHONPATH": paths}

    def start(dies_at: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, dies_at]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    assert start("model-00004").returncode == 9
    left = [name for name in list_files(tmp_path / "cache") if name.startswith("model-")]
    assert len(left) in (1, 2)
    finished = start("no such shard")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split()[0] in ("1", "2")
    assert list_files(tmp_path / "cache") == []
    whole = scan(tmp_path / "hub")
    resumed = Scan.read(tmp_path / "s.jsonl")
    assert [u.model_dump(exclude={"seconds"}) for u in resumed] == [u.model_dump(exclude={"seconds"}) for u in whole]


def test_a_streamed_scan_keeps_singular_values_also_when_it_goes_on(hub: FolderHub, cache: Path) -> None:
    output = Path("s.jsonl")
    with pytest.raises(KeyboardInterrupt):
        scan(REPO, stream=True, output=output, spectrum="full", on_progress=stop_after(9))
    streamed = scan(REPO, stream=True, output=output, spectrum="full")
    local = scan(hub.folder, spectrum="full")
    for unit in local.measured:
        assert streamed.singular_values(unit.name).tolist() == local.singular_values(unit.name).tolist()


def test_a_model_that_changed_on_the_hub_starts_afresh(hub: FolderHub, cache: Path) -> None:
    output = Path("s.jsonl")
    with pytest.raises(KeyboardInterrupt):
        scan(REPO, stream=True, output=output, on_progress=stop_after(9))
    hub.commit = "f" * 40
    messages: list[str] = []
    result = scan(REPO, stream=True, output=output, on_progress=lambda p: messages.append(p.message or ""))
    assert "s.jsonl.partial is of another scan or model; starting afresh" in messages
    assert result.header.model == f"{REPO}@{'f' * 12}"
    # What the first commit left is gone as well.
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


def test_scales_in_the_next_shard_are_found(tmp_path: Path, hub: FolderHub) -> None:
    for file in hub.folder.iterdir():
        file.unlink()
    codes = bytes(range(0x20, 0x20 + 64))
    for index in range(4):
        scale = np.array([1 + index], dtype=np.float32).tobytes()
        before = [(f"{index - 1}.weight_scale", "F32", (1,), scale)] if index else []
        here = [(f"{index}.weight", "F8_E4M3", (8, 8), codes)]
        write_typed(hub.folder / f"model-{index}.safetensors", [*before, *here])
    streamed = scan(REPO, stream=True)
    assert [u.model_dump(exclude={"seconds"}) for u in streamed] == [
        u.model_dump(exclude={"seconds"}) for u in scan(hub.folder)
    ]
    assert hub.most_on_disk == 2
    assert len(hub.fetched_shards) == 4


def write_packed_shards(folder: Path, stored: build.Stored, method: str) -> None:
    """The parts of a quantised weight in turn in two shards, between tensors that are not quantised."""
    for file in folder.iterdir():
        file.unlink()
    plain = [build.entry(f"{index}.weight", make_weights(8, 8, seed=index)) for index in range(4)]
    for index, parts in enumerate(([plain[0]], stored[::2], [*stored[1::2], plain[1]], [plain[2]], [plain[3]])):
        write_typed(folder / f"model-{index}.safetensors", parts)
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": method}}))


PACKED = {
    "gptq": build.build_gptq(4, act=True)[0],
    "awq": build.build_awq()[0],
    "bitsandbytes": build.build_bnb4(nested=True)[0],
    "mxfp4": build.build_mxfp4(),
    "compressed-tensors": build.build_compressed(4, asymmetric=True, act=True)[0],
}


@pytest.mark.parametrize("method", PACKED)
def test_a_quantised_weight_that_lies_in_two_shards_is_put_together(method: str, hub: FolderHub, cache: Path) -> None:
    write_packed_shards(hub.folder, PACKED[method], method)
    streamed, whole = scan(REPO, stream=True), scan(hub.folder)
    assert [u.model_dump(exclude={"seconds"}) for u in streamed] == [u.model_dump(exclude={"seconds"}) for u in whole]
    assert streamed.header.checkpoint == whole.header.checkpoint
    assert any(unit.measures and unit.note and "dequantised from" in unit.note for unit in streamed)
    assert hub.most_on_disk == 2
    assert set(hub.peeked) <= {"model-1.safetensors", "model-2.safetensors"}
    assert list_files(cache) == []


def test_the_shape_of_a_quantised_weight_that_cannot_be_read_says_what_to_do(
    hub: FolderHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_packed_shards(hub.folder, PACKED["bitsandbytes"], "bitsandbytes")

    def fail(path: str, mode: str, *, cache_type: str) -> Any:
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(hub, "open", fail)
    with pytest.raises(DownloadError, match=r"cannot read m\.weight\.quant_state.*model-.*reset by peer; run the same"):
        scan(REPO, stream=True)


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


def test_a_part_left_by_an_interrupted_download_counts_as_a_shard(hub: FolderHub, cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        scan(REPO, stream=True, on_progress=stop_after(1))
    folder = next(path for path in cache.rglob(COMMIT[:12]))
    shards = sorted(folder.glob("*.safetensors"))
    shards[-1].rename(folder / "part.incomplete")
    scan(REPO, stream=True)
    assert hub.most_on_disk == 2
    assert list_files(cache) == []


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


def test_an_interrupted_scan_does_not_wait_for_the_download(hub: FolderHub) -> None:
    is_released = threading.Event()
    is_fetching = threading.Event()

    def wait(name: str) -> None:
        if name.startswith("model-00003"):
            is_fetching.set()
            is_released.wait(60)

    def stop(progress: ScanProgress) -> None:
        assert is_fetching.wait(60)
        raise KeyboardInterrupt

    hub.before_fetch = wait
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        scan(REPO, stream=True, on_progress=lambda progress: stop(progress) if progress.message is None else None)
    assert time.monotonic() - start < 10
    is_released.set()
    # The next scan waits for the shard that is still on its way: it would be a third one.
    scan(REPO, stream=True)
    assert hub.most_on_disk == 2


def test_it_says_what_it_fetches(hub: FolderHub) -> None:
    messages: list[str | None] = []
    scan(REPO, stream=True, on_progress=lambda progress: messages.append(progress.message))
    fetched = [message for message in messages if message]
    assert fetched == [f"fetching {name}" for name in hub.fetched_shards]


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


def test_the_command_streams(hub: FolderHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", REPO, "--stream"]) == 0
    assert "wrote tiny-llama.scan.jsonl (20 units" in capsys.readouterr().out
    assert len(hub.fetched_shards) == NUM_SHARDS
