"""The pipeline as an accelerator is fed, with torch's CPU device in its place."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oblong.checkpoints import open_checkpoint
from oblong.errors import CorruptCheckpointError
from oblong.records import Scan, ScanConfig, Status
from oblong.scanning import scan, scanner, staging
from oblong.scanning.devices import ComputeSpectra, Feed, choose_feed
from oblong.scanning.reading import AheadReader
from oblong.scanning.staging import Stager, to_tensor
from oblong.scanning.store import PLACE_VARIABLE
from oblong.scanning.streaming import TensorLoader, read_ahead
from oblong.scanning.worklist import list_batches, list_jobs, list_loads
from tests import tolerances
from tests.checkpoint_builders import make_weights, to_bf16_bytes, write_raw, write_typed


def make_tensor(name: str, dtype: str, *shape: int, seed: int) -> tuple[str, str, list[int], bytes]:
    values = make_weights(*shape, seed=seed)
    encoded = to_bf16_bytes(values) if dtype == "BF16" else values.astype({"F16": "<f2", "F64": "<f8"}[dtype]).tobytes()
    return name, dtype, list(shape), encoded


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Stored in three formats, with a vector, a stack of experts, a fused tensor and bad numbers."""
    tensors = [
        *(make_tensor(f"layers.{i}.mlp.up_proj.weight", "BF16", 60, 40, seed=i) for i in range(3)),
        make_tensor("layers.0.mlp.down_proj.weight", "F16", 40, 60, seed=3),
        make_tensor("layers.1.mlp.down_proj.weight", "F64", 40, 60, seed=4),
        make_tensor("layers.2.mlp.gate_up_proj.weight", "BF16", 80, 40, seed=5),
        make_tensor("layers.0.mlp.experts.gate_up_proj", "BF16", 4, 60, 50, seed=6),
        make_tensor("norm.weight", "BF16", 40, seed=7),
        ("zero.weight", "BF16", [50, 40], bytes(4000)),
        ("nan.weight", "BF16", [50, 40], b"\xc0\x7f" * 2000),
        ("nan_vector.weight", "BF16", [40], b"\xc0\x7f" * 40),
    ]
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    write_typed(tmp_path / "model/model.safetensors", tensors)
    return tmp_path / "model"


@pytest.fixture
def reference(model: Path) -> Scan:
    """The CPU's scan: ask for it before `arrived`, which replaces the CPU."""
    return scan(model, cache=False)


@pytest.fixture(params=[1, 30_000, 1 << 30])
def arrived(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The dtypes of all matrices that reached the device, in windows of three sizes."""
    dtypes: list[str] = []
    feed = Feed(window_bytes=request.param, num_readers=3, stage=Stager("cpu"))

    def choose_backend(device: str, *, full: bool, num_threads: int | None, precision: str) -> ComputeSpectra:
        from oblong.spectra.accelerator import compute_spectra_on

        def compute(matrices: Any) -> Any:
            dtypes.extend(str(matrix.dtype) for matrix in matrices)
            return compute_spectra_on(matrices, device="cpu", full=full)

        return compute

    monkeypatch.setattr(scanner, "choose_backend", choose_backend)
    monkeypatch.setattr(scanner, "choose_feed", lambda device: feed)
    return dtypes


class NoNetwork:
    """Stands for a place on the network that is never asked."""

    def __init__(self) -> None:
        self.on_fetch: Callable[[str], None] = lambda name: None

    def stop(self) -> None:
        """Nothing to stop."""


def compare(ours: Scan, reference: Scan) -> None:
    for unit, expected in zip(ours, reference, strict=True):
        assert (unit.name, unit.status, unit.digest) == (expected.name, expected.status, expected.digest)
        assert (unit.measures is None) is (expected.measures is None)
        if unit.measures is not None and expected.measures is not None:
            assert unit.measures.kappa == pytest.approx(expected.measures.kappa, rel=tolerances.KAPPA_REFINED)


def test_a_fed_scan_is_that_of_the_cpu(model: Path, reference: Scan, arrived: list[str]) -> None:
    compare(scan(model, cache=False), reference)
    assert set(arrived) == {"torch.bfloat16", "torch.float16", "torch.float64"}
    assert len(arrived) == len(reference.measured) + 2  # zero and NaN
    assert {unit.status for unit in reference} >= {Status.ZERO, Status.NON_FINITE, Status.VECTOR}


def test_what_is_known_is_not_staged(model: Path, monkeypatch: pytest.MonkeyPatch, arrived: list[str]) -> None:
    monkeypatch.setenv(PLACE_VARIABLE, str(model.parent / "cache"))
    first = scan(model)
    num_computed = len(arrived)
    compare(scan(model), first)
    assert len(arrived) == num_computed > 0


def test_a_part_of_the_model_can_be_known(model: Path, monkeypatch: pytest.MonkeyPatch, arrived: list[str]) -> None:
    monkeypatch.setenv(PLACE_VARIABLE, str(model.parent / "cache"))
    scan(model, include="down_proj|experts")
    num_known = len(arrived)
    compare(scan(model), scan(model, cache=False))
    assert len(arrived) > num_known


def read_all(model: Path, feed: Feed) -> None:
    checkpoint = open_checkpoint(model)
    batches = list_batches(list_loads(list_jobs(checkpoint, ScanConfig())), feed.window_bytes)
    write_raw(model / "model.safetensors", {})
    with read_ahead(checkpoint, batches, budget_bytes=feed.budget_bytes, feed=feed) as loaded:
        list(loaded)


@pytest.mark.parametrize("window", [1, 1 << 30])
def test_a_file_that_shrinks_is_named_and_the_threads_end(model: Path, window: int) -> None:
    with pytest.raises(CorruptCheckpointError, match=r"model\.safetensors.*cannot be read"):
        read_all(model, Feed(window_bytes=window, num_readers=3, stage=Stager("cpu")))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("oblong-reader")]


def test_what_was_begun_in_vain_is_given_up(model: Path) -> None:
    checkpoint = open_checkpoint(model)
    loads = list_loads(list_jobs(checkpoint, ScanConfig()))
    reader = AheadReader(checkpoint, 2)
    try:
        reader.begin(loads)
        reader.forget()
        assert reader.load(loads[0]).values is not None
    finally:
        reader.close()


def test_shards_from_the_network_are_read_in_order(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []
    monkeypatch.setattr(AheadReader, "begin", lambda self, loads: begun.extend(loads))
    checkpoint = open_checkpoint(model)
    reader = AheadReader(checkpoint, 2)
    for remote in (NoNetwork(), None):
        source = dataclasses.replace(checkpoint, remote=remote)
        loads = list_loads(list_jobs(source, ScanConfig()))
        TensorLoader(source, reader=reader).begin(loads)
        assert bool(begun) is (remote is None)
    reader.close()


def test_only_the_device_sees_undecoded_values(model: Path) -> None:
    checkpoint = open_checkpoint(model)
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    bits = checkpoint.load(tensors["layers.0.mlp.up_proj.weight"], keep_16_bit=True)
    decoded = checkpoint.load(tensors["layers.0.mlp.up_proj.weight"])
    assert bits.values is not None
    assert bits.values.dtype == np.uint16
    assert bits.digest == decoded.digest
    np.testing.assert_array_equal(to_tensor(bits.values).float().numpy(), decoded.values)


def test_the_cpu_is_not_fed() -> None:
    assert choose_feed("cpu") is None


@pytest.mark.parametrize(("memory", "window"), [(8 << 30, 256 << 20), (139 << 30, 4 << 30)])
def test_windows_depend_on_the_memory_of_the_device(memory: int, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1, memory))
    monkeypatch.setattr(staging, "Stager", lambda device: Stager("cpu"))
    feed = choose_feed("cuda")
    assert feed is not None
    assert (feed.window_bytes, feed.budget_bytes) == (window, 2 * window)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("spectrum", ["extremes", "full"])
def test_a_scan_on_a_gpu_is_that_of_the_cpu(model: Path, spectrum: str) -> None:
    on_gpu = scan(model, device="cuda", spectrum=spectrum, cache=False)
    compare(on_gpu, scan(model, spectrum=spectrum, cache=False))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_a_matrix_is_staged_on_the_gpu() -> None:
    values = make_weights(300, 200)
    staged = Stager("cuda")(values)
    assert staged.is_cuda
    np.testing.assert_array_equal(staged.cpu().numpy(), values)
