from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from oblong.checkpoints import Checkpoint, StoredRows, StoredTensor, TensorInfo, open_checkpoint
from oblong.errors import CorruptCheckpointError
from oblong.records import ScanConfig
from oblong.scanning import scan
from oblong.scanning.streaming import ByteBudget, read_ahead
from oblong.scanning.worklist import Batch, list_batches, list_jobs, list_loads
from tests.checkpoint_builders import llama_tensors, make_weights, write_model, write_raw

TENSOR_BYTES = 4 * 8 * 8


def make_batches(directory: Path, window_bytes: int, *, num_tensors: int = 6) -> tuple[list[Batch], Path]:
    path = write_model(directory, {f"w{i}.weight": make_weights(8, 8, seed=i) for i in range(num_tensors)})
    loads = list_loads(list_jobs(open_checkpoint(path), ScanConfig()))
    return list(list_batches(loads, window_bytes)), path


@pytest.mark.parametrize(("window", "sizes"), [(1, [1] * 6), (2 * TENSOR_BYTES, [2, 2, 2]), (10**9, [6])])
def test_batches_are_consecutive_and_bounded(tmp_path: Path, window: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in make_batches(tmp_path, window)[0]] == sizes


def test_tensors_arrive_in_order_with_their_values(tmp_path: Path) -> None:
    batches, path = make_batches(tmp_path, 2 * TENSOR_BYTES)
    with read_ahead(open_checkpoint(path), batches) as loaded:
        arrived = [(item.job.unit.name, item.values) for batch in loaded for item in batch]
    assert [name for name, _ in arrived] == [f"w{i}.weight" for i in range(6)]
    for index, (_, values) in enumerate(arrived):
        np.testing.assert_array_equal(values, make_weights(8, 8, seed=index))


def test_no_more_is_read_ahead_than_the_budget_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches, path = make_batches(tmp_path, TENSOR_BYTES)
    in_flight, peak = 0, 0
    acquire, release = ByteBudget.acquire, ByteBudget.release

    def count_acquire(self: ByteBudget, size: int) -> bool:
        nonlocal in_flight, peak
        granted = acquire(self, size)
        in_flight += size
        peak = max(peak, in_flight)
        return granted

    def count_release(self: ByteBudget, size: int) -> None:
        nonlocal in_flight
        in_flight -= size
        release(self, size)

    monkeypatch.setattr(ByteBudget, "acquire", count_acquire)
    monkeypatch.setattr(ByteBudget, "release", count_release)
    with read_ahead(open_checkpoint(path), batches, budget_bytes=3 * TENSOR_BYTES) as loaded:
        assert sum(1 for _ in loaded) == 6
    assert in_flight == 0
    assert TENSOR_BYTES < peak <= 3 * TENSOR_BYTES


def test_a_tensor_larger_than_the_budget_passes_alone(tmp_path: Path) -> None:
    batches, path = make_batches(tmp_path, TENSOR_BYTES)
    with read_ahead(open_checkpoint(path), batches, budget_bytes=1) as loaded:
        assert sum(1 for _ in loaded) == 6


def test_stopping_early_stops_the_reader(tmp_path: Path) -> None:
    batches, path = make_batches(tmp_path, TENSOR_BYTES)
    with read_ahead(open_checkpoint(path), batches, budget_bytes=TENSOR_BYTES) as loaded:
        next(loaded)
    assert not [thread for thread in threading.enumerate() if thread.name == "oblong-reader"]


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    batches, path = make_batches(tmp_path, TENSOR_BYTES)
    checkpoint = open_checkpoint(path)
    write_raw(path / "model.safetensors", {})
    with (
        read_ahead(checkpoint, batches) as loaded,
        pytest.raises(CorruptCheckpointError, match=r"model\.safetensors.*w0\.weight cannot be read"),
    ):
        list(loaded)


def test_two_large_tensors_pass_if_they_fit_together() -> None:
    budget = ByteBudget(10, pair_limit=100)
    assert budget.acquire(40)
    assert budget.acquire(50)
    third = threading.Thread(target=budget.acquire, args=(5,), daemon=True)
    third.start()
    third.join(0.05)
    assert third.is_alive()  # a third one only within the smaller limit
    budget.release(40)
    third.join(5)
    assert not third.is_alive()
    budget.close()


def test_a_very_large_matrix_stays_in_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oblong.scanning.streaming.STORED_BYTES", TENSOR_BYTES)
    tensors = {
        "tall.weight": make_weights(24, 8),
        "wide.weight": make_weights(8, 24),
        "small.weight": make_weights(8, 8),
    }
    path = write_model(tmp_path, tensors)
    loads = list_loads(list_jobs(open_checkpoint(path), ScanConfig()))
    with read_ahead(open_checkpoint(path), [tuple(loads)], by_rows=True) as loaded:
        kinds = {item.job.unit.name: type(item.values).__name__ for batch in loaded for item in batch}
    assert kinds == {"tall.weight": "StoredRows", "wide.weight": "ndarray", "small.weight": "ndarray"}
    with read_ahead(open_checkpoint(path), [tuple(loads)]) as loaded:
        assert all(isinstance(item.values, np.ndarray) for batch in loaded for item in batch)


def test_the_scan_is_the_same_however_its_matrices_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path, llama_tensors())
    expected = scan(path, cache=False, num_threads=1)
    by_rows: list[str] = []
    load_rows = Checkpoint.load_rows

    def note(self: Checkpoint, tensor: TensorInfo) -> tuple[StoredRows, str]:
        by_rows.append(tensor.name)
        return load_rows(self, tensor)

    monkeypatch.setattr(Checkpoint, "load_rows", note)
    monkeypatch.setattr("oblong.scanning.streaming.STORED_BYTES", 1)
    assert scan(path, cache=False, num_threads=1).digest() == expected.digest()
    assert "model.embed_tokens.weight" in by_rows
    assert not any("down_proj" in name for name in by_rows)


def test_a_stack_is_hashed_once_and_its_experts_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path, {f"m.{i}.experts.down_proj": make_weights(3, 8, 16, seed=i) for i in range(2)})
    hashed: list[tuple[str, int | None]] = []
    digest, load = Checkpoint.digest, Checkpoint.load

    def note_digest(self: Checkpoint, tensor: TensorInfo) -> str:
        hashed.append((tensor.name, tensor.slice_index))
        return digest(self, tensor)

    def note_load(self: Checkpoint, tensor: TensorInfo, *, with_digest: bool = True) -> StoredTensor:
        if with_digest:
            hashed.append((tensor.name, tensor.slice_index))
        return load(self, tensor, with_digest=with_digest)

    monkeypatch.setattr(Checkpoint, "digest", note_digest)
    monkeypatch.setattr(Checkpoint, "load", note_load)
    monkeypatch.setattr("oblong.scanning.scanner.WINDOW_BYTES", 1)
    found = scan(path, cache=False, num_threads=1)
    assert sorted(hashed) == [("m.0.experts.down_proj", None), ("m.1.experts.down_proj", None)]
    assert len({unit.digest for unit in found.measured}) == 2
    assert len(found.measured) == 6
