from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from oblong.checkpoints import StoredRows, TensorInfo, base, open_checkpoint
from oblong.checkpoints.base import Checkpoint
from oblong.checkpoints.dtypes import FORMATS, decode, decode_into
from oblong.errors import CorruptCheckpointError
from oblong.spectra import compute_spectrum
from tests.checkpoint_builders import make_weights, to_bf16_bytes, write_model, write_typed

SHAPE = (96, 40)


def open_bf16(directory: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Checkpoint:
    path = directory / "m.safetensors"
    padding = ("first", "F32", [3], np.zeros(3, dtype=np.float32).tobytes())
    return open_checkpoint(write_typed(path, [padding, ("w", "BF16", values.shape, to_bf16_bytes(values))]))


def find(checkpoint: Checkpoint, name: str = "w") -> TensorInfo:
    return next(tensor for tensor in checkpoint.tensors if tensor.name == name)


def test_rows_extremes_and_digest_are_those_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "CHUNK_BYTES", 1000)  # no multiple of a row
    checkpoint = open_bf16(tmp_path, make_weights(*SHAPE))
    whole = checkpoint.load(find(checkpoint))
    rows, digest = checkpoint.load_rows(find(checkpoint))
    assert whole.values is not None
    assert digest == whole.digest
    assert (rows.shape, rows.size, rows.dtype) == (whole.values.shape, whole.values.size, whole.values.dtype)
    assert (rows.min(), rows.max()) == (whole.values.min(), whole.values.max())
    for start, stop in ((0, 96), (0, 1), (17, 60), (90, 200), (5, 5)):
        np.testing.assert_array_equal(rows[start:stop], whole.values[start:stop])


def test_a_spectrum_from_rows_has_the_bits_of_one_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("WHOLE_ELEMENTS", "GRAM_ELEMENTS", "PRODUCT_ELEMENTS"):
        monkeypatch.setattr(f"oblong.spectra.tall.{limit}", 40 * 40)
    checkpoint = open_bf16(tmp_path, make_weights(*SHAPE))
    values = checkpoint.read(find(checkpoint))
    assert values is not None
    rows, _ = checkpoint.load_rows(find(checkpoint))
    expected, found = compute_spectrum(values), compute_spectrum(rows)  # type: ignore[arg-type]
    assert (found.kappa, found.log_volume, found.sigma_min) == (
        expected.kappa,
        expected.log_volume,
        expected.sigma_min,
    )


def test_a_nan_anywhere_is_an_extreme(tmp_path: Path) -> None:
    values = make_weights(*SHAPE)
    values[50, 7] = np.nan
    checkpoint = open_bf16(tmp_path, values)
    rows, _ = checkpoint.load_rows(find(checkpoint))
    assert np.isnan(rows.max())
    assert np.isnan(rows.min())


def test_a_file_that_changes_after_it_was_hashed_is_refused(tmp_path: Path) -> None:
    checkpoint = open_bf16(tmp_path, make_weights(*SHAPE))
    rows, _ = checkpoint.load_rows(find(checkpoint))
    path = tmp_path / "m.safetensors"
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\x00\x3f")
    os.utime(path, ns=(1, 1))
    with pytest.raises(CorruptCheckpointError, match=r"m\.safetensors.*changed while it was scanned"):
        rows[0:1]


def test_rows_come_one_after_the_other(tmp_path: Path) -> None:
    checkpoint = open_bf16(tmp_path, make_weights(*SHAPE))
    rows, _ = checkpoint.load_rows(find(checkpoint))
    assert isinstance(rows, StoredRows)
    with pytest.raises(ValueError, match="in steps of 2"):
        rows[::2]


@pytest.mark.parametrize(
    ("dtype", "shape", "can"),
    [
        ("BF16", [12, 8], True),
        ("F64", [8, 8], True),
        ("BF16", [8, 12], False),  # wide: its panels are columns
        ("BF16", [4, 8, 2], False),
        ("I32", [12, 8], False),
        ("BF16", [3, 0], False),
    ],
)
def test_which_tensors_can_be_read_by_rows(tmp_path: Path, dtype: str, shape: list[int], can: bool) -> None:
    size = {"BF16": 2, "F64": 8, "I32": 4}[dtype] * int(np.prod(shape))
    checkpoint = open_checkpoint(write_typed(tmp_path / "m.safetensors", [("w", dtype, shape, bytes(size))]))
    assert checkpoint.can_load_rows(find(checkpoint)) is can


def test_codes_with_scales_are_not_read_by_rows(tmp_path: Path) -> None:
    scale = np.ones(1, dtype=np.float32).tobytes()
    tensors = [("w.weight", "F8_E4M3", [12, 8], bytes(96)), ("w.weight_scale", "F32", [1], scale)]
    checkpoint = open_checkpoint(write_typed(tmp_path / "m.safetensors", tensors))
    assert not checkpoint.can_load_rows(find(checkpoint, "w.weight"))


def test_an_expert_is_a_matrix_of_its_own(tmp_path: Path) -> None:
    values = make_weights(3, 20, 8)
    checkpoint = open_checkpoint(write_model(tmp_path, {"experts.down_proj": values}))
    rows, digest = checkpoint.load_rows(find(checkpoint, "experts.down_proj").slice(1))
    np.testing.assert_array_equal(rows[4:9], values[1, 4:9])
    assert digest == checkpoint.load(find(checkpoint, "experts.down_proj").slice(1)).digest


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64", "F8_E4M3", "Q8_0"])
def test_decoding_into_an_array_gives_the_same_bits(name: str) -> None:
    storage = FORMATS[name]
    values = np.random.default_rng(0).standard_normal((1 << 17) + 96).astype(np.float32)
    stored = {
        "BF16": np.frombuffer(to_bf16_bytes(values), dtype=np.uint8),
        "F16": values.astype(np.float16).view(np.uint8),
        "F32": values.view(np.uint8),
        "F64": values.astype(np.float64).view(np.uint8),
        "F8_E4M3": np.arange(256, dtype=np.uint8),
        "Q8_0": quantize(values, GGMLQuantizationType.Q8_0),
    }[name]
    expected = decode(stored, storage)
    found = np.full(expected.size, 7, dtype=storage.decoded)
    decode_into(stored, storage, found)
    np.testing.assert_array_equal(found, expected.reshape(-1))
