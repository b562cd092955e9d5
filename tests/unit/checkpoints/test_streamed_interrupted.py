"""A streamed scan that is interrupted goes on, and leaves at most two shards meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oblong.checkpoints.safetensors import read_header
from oblong.records import Scan, Unit
from oblong.scanning import ScanProgress, scan
from tests.hub_builders import COMMIT, NUM_SHARDS, REPO, FolderHub, list_files, write_shards


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
        "import os, sys, tests.hub_builders as t\n"
        "from pathlib import Path\n"
        "hub = t.FolderHub(Path('hub'))\n"
        "hub.before_fetch = lambda name: os._exit(9) if name.startswith(sys.argv[1]) else None\n"
        "import huggingface_hub as h, oblong, oblong.scanning.scanner as s\n"
        "s.WINDOW_BYTES = 1\n"
        "h.HfApi, h.hf_hub_download, h.try_to_load_from_cache = lambda: hub, hub.download, lambda *a, **k: None\n"
        "oblong.scan(t.REPO, stream=True, output=Path('s.jsonl'))\n"
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


def test_a_part_left_by_an_interrupted_download_counts_as_a_shard(hub: FolderHub, cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        scan(REPO, stream=True, on_progress=stop_after(1))
    folder = next(path for path in cache.rglob(COMMIT[:12]))
    shards = sorted(folder.glob("*.safetensors"))
    shards[-1].rename(folder / "part.incomplete")
    scan(REPO, stream=True)
    assert hub.most_on_disk == 2
    assert list_files(cache) == []


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
