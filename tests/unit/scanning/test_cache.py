from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oblong.checkpoints import Checkpoint, TensorInfo, open_checkpoint
from oblong.errors import CorruptCheckpointError, OutputWriteError
from oblong.records import Scan, ScanConfig, Status
from oblong.scanning import scan, scanner
from oblong.scanning.cache import open_cache
from oblong.scanning.cache_key import Arithmetic, KeyMaker, describe_arithmetic
from oblong.scanning.store import PLACE_VARIABLE, SpectrumStore
from oblong.scanning.streaming import read_ahead
from oblong.scanning.worklist import Job, list_batches, list_jobs, list_loads
from oblong.spectra import compute_spectra
from tests.checkpoint_builders import llama_tensors, make_weights, write_model, write_typed
from tests.packed_builders import build_bnb4

ARITHMETIC = Arithmetic(identity="this machine", num_threads=2)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SpectrumStore:
    monkeypatch.setenv(PLACE_VARIABLE, str(tmp_path / "spectra"))
    return SpectrumStore(tmp_path / "spectra")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all matrices whose spectrum was computed."""
    shapes: list[tuple[int, ...]] = []

    def choose(device: str, **options: Any) -> Callable[[Any], Any]:
        def compute(matrices: list[Any]) -> Any:
            shapes.extend(matrix.shape for matrix in matrices)
            return compute_spectra(matrices, full=options["full"])

        return compute

    monkeypatch.setattr(scanner, "choose_backend", choose)
    return shapes


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all tensors that were decoded."""
    names: list[str] = []
    load = Checkpoint.load

    def spy(self: Checkpoint, tensor: Any, **options: Any) -> Any:
        names.append(tensor.name)
        return load(self, tensor, **options)

    monkeypatch.setattr(Checkpoint, "load", spy)
    return names


def collect(model: Path, **options: Any) -> tuple[Scan, list[str]]:
    messages: list[str] = []
    found = scan(str(model), on_progress=lambda s: messages.append(s.message) if s.message else None, **options)
    return found, messages


SPECIAL = {
    "zero.weight": np.zeros((40, 50), dtype=np.float32),
    "nan.weight": np.full((3, 3), np.nan, dtype=np.float32),
    "deficient.weight": np.outer(np.arange(1, 41), np.arange(1, 51)).astype(np.float32),
    "fails.weight": np.full((3, 3), 1.7e308),
    "vector.weight": np.array([1.0, np.inf], dtype=np.float32),
}


@pytest.mark.parametrize("spectrum", ["extremes", "full"])
def test_a_scan_from_the_cache_is_the_scan_without(tmp_path: Path, store: SpectrumStore, spectrum: str) -> None:
    tensors = llama_tensors() | SPECIAL | {"h.0.attn.c_attn.weight": make_weights(24, 72, seed=9)}
    model = write_model(tmp_path / "model", tensors)
    without = scan(str(model), spectrum=spectrum, cache=False)
    assert store.measure_usage().num_entries == 0
    first, said_first = collect(model, spectrum=spectrum)
    second, said_second = collect(model, spectrum=spectrum)
    assert without.digest() == first.digest() == second.digest()
    assert said_first == []
    kept = sum(unit.status in ("ok", "rank_deficient", "zero", "non_finite") for unit in first if len(unit.shape) > 1)
    assert said_second == [f"{kept} of {len(first)} units were known from the cache of earlier scans"]
    assert second["fails.weight"].status is Status.NOT_CONVERGED
    assert second["vector.weight"].status is Status.NON_FINITE


def test_nothing_known_is_decoded_or_computed(
    tmp_path: Path, store: SpectrumStore, computed: list[Any], decoded: list[str]
) -> None:
    model = write_model(tmp_path / "model")
    scan(str(model))
    assert len(computed) == 15
    computed.clear()
    decoded.clear()
    scan(str(model))
    assert computed == []
    assert all("norm" in name for name in decoded)


def test_the_first_scan_hashes_no_tensor_twice_but_one(
    tmp_path: Path, store: SpectrumStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    digest = Checkpoint.digest

    def spy(self: Checkpoint, tensor: TensorInfo) -> str:
        hashed.append(tensor.name)
        return digest(self, tensor)

    monkeypatch.setattr(Checkpoint, "digest", spy)
    scan(str(write_model(tmp_path / "model")))
    assert len(hashed) == 1


def test_models_share_what_they_have_in_common(tmp_path: Path, store: SpectrumStore, computed: list[Any]) -> None:
    tensors = llama_tensors()
    scan(str(write_model(tmp_path / "base", tensors)))
    computed.clear()
    changed = "model.layers.1.mlp.up_proj.weight"
    tuned = tensors | {changed: make_weights(*tensors[changed].shape, seed=77)}
    model = write_model(tmp_path / "tuned", tuned)
    found, said = collect(model)
    assert computed == [tensors[changed].shape]
    assert said == [f"14 of {len(found)} units were known from the cache of earlier scans"]
    assert found.digest() == scan(str(model), cache=False).digest()


def test_experts_of_a_stack_are_known_one_by_one(tmp_path: Path, store: SpectrumStore, computed: list[Any]) -> None:
    stack = make_weights(3, 12, 20)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    model = write_model(tmp_path / "model", {name: stack}, {"model_type": "gpt_oss"})
    first = scan(str(model))
    computed.clear()
    assert scan(str(model), include=r"expert\.[12]")[f"{name}[expert.2.up]"] == first[
        f"{name}[expert.2.up]"
    ].model_copy(update={"seconds": 0.0})
    assert computed == []


def test_a_damaged_entry_is_computed_and_written_again(
    tmp_path: Path, store: SpectrumStore, computed: list[Any]
) -> None:
    model = write_model(tmp_path / "model")
    expected = scan(str(model))
    for path in list(store.directory.glob("v1/*.jsonl"))[:3]:
        path.write_bytes(path.read_bytes().replace(b'"kappa":', b'"kappa":1'))
    computed.clear()
    assert scan(str(model)).digest() == expected.digest()
    num_computed = len(computed)
    assert num_computed >= 3
    assert scan(str(model)).digest() == expected.digest()
    assert len(computed) == num_computed


def test_a_cache_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, store: SpectrumStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: SpectrumStore, findings: Mapping[str, Any]) -> None:
        raise OutputWriteError(self.directory, "No space left on device")

    monkeypatch.setattr(SpectrumStore, "put", fail)
    monkeypatch.setattr(scanner, "WINDOW_BYTES", 1)
    model = write_model(tmp_path / "model")
    found, said = collect(model)
    assert len(said) == 1
    assert "No space left on device; the scan goes on" in said[0]
    assert found.digest() == scan(str(model), cache=False).digest()


NO_ROOM = """
import resource, sys
from oblong.scanning import scan
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
print(scan(sys.argv[1], on_progress=lambda state: state.message and print(state.message)).digest())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_where_files_cannot_grow_the_scan_is_whole_and_the_cache_not_broken(
    tmp_path: Path, store: SpectrumStore
) -> None:
    model = write_model(tmp_path / "model")
    command = [sys.executable, "-c", NO_ROOM, str(model)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    warning, digest = finished.stdout.splitlines()
    assert "File too large; the scan goes on" in warning
    assert digest == scan(str(model), cache=False).digest()
    assert store.measure_usage().num_entries == 0
    assert scan(str(model)).digest() == digest
    assert store.measure_usage().num_entries == 15


def test_a_cache_that_cannot_be_read_costs_one_warning(
    tmp_path: Path, store: SpectrumStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: SpectrumStore, key: str) -> None:
        raise PermissionError(13, "Permission denied")

    model = write_model(tmp_path / "model")
    monkeypatch.setattr(SpectrumStore, "get", fail)
    found, said = collect(model)
    assert len(said) == 1
    assert "measuring everything" in said[0]
    assert found.digest() == scan(str(model), cache=False).digest()


def make_key(
    path: Path, number: int = 0, *, digest: str = "d", arithmetic: Arithmetic = ARITHMETIC, **options: Any
) -> str:
    checkpoint = open_checkpoint(path)
    config = ScanConfig(**options)
    job: Job = list_jobs(checkpoint, config)[number]
    return KeyMaker(checkpoint, config, arithmetic).make(job, digest)


class TestKey:
    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        tensors = {"h.0.attn.c_attn.weight": make_weights(24, 72), "z.weight": make_weights(24, 72)}
        return write_model(tmp_path / "model", tensors, {})

    def test_filters_and_names_do_not_enter(self, model: Path, tmp_path: Path) -> None:
        tensors = {"h.9.attn.c_attn.weight": make_weights(24, 72)}
        other = write_model(tmp_path / "other", tensors, {})
        assert make_key(model) == make_key(other) == make_key(other, include="attn")

    def test_parts_differ_from_each_other_and_from_the_whole(self, model: Path) -> None:
        assert len({make_key(model, number) for number in range(4)}) == 4

    @pytest.mark.parametrize(
        "options",
        [
            {"spectrum": "full"},
            {"measure_version": 3},
            {"input_variance": 2.0},
            {"noise_variance": 2.0},
            {"digest": "other"},
            {"arithmetic": Arithmetic(identity="another machine", num_threads=2)},
        ],
    )
    def test_what_changes_the_measures_changes_the_key(self, model: Path, options: dict[str, Any]) -> None:
        assert make_key(model) != make_key(model, **options)

    def test_threads_enter_only_for_large_matrices(self, model: Path, tmp_path: Path) -> None:
        one = Arithmetic(identity=ARITHMETIC.identity, num_threads=1)
        large = write_typed(tmp_path / "l.safetensors", [("w.weight", "F8_E4M3", (3072, 2048), bytes(3072 * 2048))])
        assert make_key(model) == make_key(model, arithmetic=one)
        assert make_key(large) != make_key(large, arithmetic=one)

    def test_the_storage_format_enters(self, tmp_path: Path) -> None:
        files = [
            write_typed(tmp_path / f"{dtype}.safetensors", [("w.weight", dtype, (4, 4), bytes(32))])
            for dtype in ("BF16", "F16")
        ]
        assert make_key(files[0]) != make_key(files[1])

    def test_separate_scales_enter(self, tmp_path: Path) -> None:
        def make(scale: float, config: dict[str, Any]) -> str:
            folder = tmp_path / f"{scale}-{len(config)}"
            write_model(folder, {}, config)
            factors = np.full((1, 1), scale, dtype=np.float32).tobytes()
            write_typed(
                folder / "model.safetensors",
                [("w.weight", "F8_E4M3", (4, 4), bytes(16)), ("w.weight_scale_inv", "F32", (1, 1), factors)],
            )
            return make_key(folder)

        blocks = {"quantization_config": {"weight_block_size": [2, 2]}}
        assert len({make(1.0, {}), make(2.0, {}), make(2.0, blocks)}) == 3
        assert make(1.0, {}) == make(1.0, {})

    def test_the_arithmetic_is_that_of_the_code_and_the_threads(self) -> None:
        one, two = describe_arithmetic("cpu", 1), describe_arithmetic("cpu", 2)
        assert one.identity == two.identity
        assert one.for_matrix(100) == two.for_matrix(100)
        assert one.for_matrix(10**8) != two.for_matrix(10**8)


@pytest.mark.parametrize("window", [1, 5000, 1 << 20])
def test_a_repeated_scan_hashes_every_tensor_once(
    tmp_path: Path, store: SpectrumStore, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(scanner, "WINDOW_BYTES", window)
    model = write_model(tmp_path / "model")
    expected = scan(str(model)).digest()
    hashed: list[str] = []
    digest = Checkpoint.digest

    def spy(self: Checkpoint, tensor: TensorInfo) -> str:
        hashed.append(tensor.name)
        return digest(self, tensor)

    monkeypatch.setattr(Checkpoint, "digest", spy)
    assert scan(str(model)).digest() == expected
    assert sorted(hashed) == sorted(name for name, values in llama_tensors().items() if values.ndim == 2)


def test_a_file_that_is_cut_off_while_it_is_hashed_ahead_is_named(tmp_path: Path, store: SpectrumStore) -> None:
    model = write_model(tmp_path / "model")
    scan(str(model))
    checkpoint = open_checkpoint(model)
    jobs = list_jobs(checkpoint, ScanConfig())
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-2000])
    cache = open_cache(checkpoint, ScanConfig(), 1)
    batches = list_batches(list_loads(jobs), 1)
    with (
        pytest.raises(CorruptCheckpointError, match="the file ends before"),
        read_ahead(checkpoint, batches, cache=cache) as loaded,
    ):
        list(loaded)


def test_a_quantised_weight_is_cached_with_its_companions(tmp_path: Path, store: SpectrumStore) -> None:
    stored, _ = build_bnb4(nested=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_typed(tmp_path / "a" / "model.safetensors", stored)
    fresh = scan(str(tmp_path / "a"), cache=False)
    collect(tmp_path / "a")
    again, messages = collect(tmp_path / "a")
    assert again.digest() == fresh.digest()
    assert any("cache" in message for message in messages)

    name, code, shape, data = stored[1]
    assert name == "m.weight.absmax"
    other = bytes([data[0] ^ 1, *data[1:]])
    write_typed(tmp_path / "b" / "model.safetensors", [stored[0], (name, code, shape, other), *stored[2:]])
    changed, messages = collect(tmp_path / "b")
    assert changed["m.weight"].measures != again["m.weight"].measures
    assert not any("cache" in message for message in messages)


def test_heads_share_the_cache_with_a_plain_scan(
    tmp_path: Path, store: SpectrumStore, computed: list[tuple[int, ...]]
) -> None:
    model = write_model(tmp_path / "model")
    plain, _ = collect(model)
    num_plain = len(computed)
    with_heads, _ = collect(model, heads=True)
    assert {unit.name for unit in plain} <= {unit.name for unit in with_heads}
    again = len(computed) - num_plain
    assert again == len([unit for unit in with_heads.measured if "[head." in unit.name])
