from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oblong.checkpoints import base, open_checkpoint
from oblong.checkpoints.dtypes import FORMATS, decode
from tests.checkpoint_builders import (
    LLAMA_CONFIG,
    llama_tensors,
    make_weights,
    to_bf16_bytes,
    write_model,
    write_sharded,
    write_typed,
)


def test_a_model_directory_gives_every_tensor_bit_for_bit(tmp_path: Path) -> None:
    tensors = llama_tensors()
    checkpoint = open_checkpoint(write_model(tmp_path, tensors))
    assert {tensor.name for tensor in checkpoint.tensors} == set(tensors)
    for tensor in checkpoint.tensors:
        values = checkpoint.read(tensor)
        assert values is not None
        np.testing.assert_array_equal(values, tensors[tensor.name])
        assert values.dtype == np.float32


def test_the_record_counts_files_tensors_and_parameters(tmp_path: Path) -> None:
    tensors = llama_tensors()
    info = open_checkpoint(write_model(tmp_path, tensors)).info
    assert info.format == "safetensors"
    assert info.architecture == "LlamaForCausalLM"
    assert info.num_tensors == len(tensors)
    assert info.num_parameters == sum(values.size for values in tensors.values())
    assert [(f.name, f.num_bytes) for f in info.files] == [
        ("model.safetensors", (tmp_path / "model.safetensors").stat().st_size)
    ]


def test_shards_hold_the_same_as_one_file(tmp_path: Path) -> None:
    tensors = llama_tensors()
    names = sorted(tensors)
    halves = {
        "model-00001-of-00002.safetensors": {n: tensors[n] for n in names[:7]},
        "model-00002-of-00002.safetensors": {n: tensors[n] for n in names[7:]},
    }
    checkpoint = open_checkpoint(write_sharded(tmp_path, halves))
    assert {tensor.name for tensor in checkpoint.tensors} == set(tensors)
    assert [file.name for file in checkpoint.info.files] == list(halves)
    for tensor in checkpoint.tensors:
        np.testing.assert_array_equal(checkpoint.read(tensor), tensors[tensor.name])


def test_tensors_come_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    content = np.zeros(2, dtype=np.float32).tobytes()
    path = write_typed(tmp_path / "m.safetensors", [(n, "F32", [2], content) for n in ("z", "a", "m")])
    assert [tensor.name for tensor in open_checkpoint(path).tensors] == ["z", "a", "m"]


def test_reading_in_many_chunks_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = make_weights(37, 53)
    path = write_typed(tmp_path / "m.safetensors", [("w", "BF16", [37, 53], to_bf16_bytes(values))])
    whole = open_checkpoint(path).load(open_checkpoint(path).tensors[0])
    monkeypatch.setattr(base, "CHUNK_BYTES", 100)
    pieces = open_checkpoint(path).load(open_checkpoint(path).tensors[0])
    np.testing.assert_array_equal(whole.values, pieces.values)
    assert whole.digest == pieces.digest


def test_the_digest_is_that_of_the_stored_bytes(tmp_path: Path) -> None:
    content = to_bf16_bytes(make_weights(8, 8))
    checkpoint = open_checkpoint(write_typed(tmp_path / "m.safetensors", [("w", "BF16", [8, 8], content)]))
    expected = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert checkpoint.load(checkpoint.tensors[0]).digest == expected
    assert checkpoint.digest(checkpoint.tensors[0]) == expected


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"),
    [
        ("F64", torch.float64),
        ("F32", torch.float32),
        ("F16", torch.float16),
        ("BF16", torch.bfloat16),
        ("F8_E4M3", torch.float8_e4m3fn),
        ("F8_E5M2", torch.float8_e5m2),
    ],
)
def test_every_format_decodes_as_torch_does(dtype: str, torch_dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8) if "8" in dtype else _random_codes(dtype)
    wide = torch.float64 if dtype == "F64" else torch.float32
    expected = codes.view(torch_dtype).to(wide).numpy()
    decoded = decode(codes.numpy(), FORMATS[dtype])
    assert decoded.dtype == FORMATS[dtype].decoded
    np.testing.assert_array_equal(decoded, expected)


def _random_codes(dtype: str) -> torch.Tensor:
    values = np.concatenate([make_weights(999), np.array([0.0, -0.0, np.inf, 1e-42], dtype=np.float32)])
    kinds: dict[str, torch.dtype] = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16}
    return torch.from_numpy(values).to(kinds.get(dtype, torch.bfloat16)).view(torch.uint8)


def test_integers_are_no_weights_but_have_a_digest(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_typed(tmp_path / "m.safetensors", [("ids", "I32", [2], b"12345678")]))
    loaded = checkpoint.load(checkpoint.tensors[0])
    assert loaded.values is None
    assert loaded.digest == f"sha256:{hashlib.sha256(b'12345678').hexdigest()}"


@pytest.mark.parametrize(("change", "same"), [({}, True), ({"shape": [2, 8]}, False), ({"name": "v"}, False)])
def test_the_layout_digest_sees_names_and_shapes_but_no_data(
    tmp_path: Path, change: dict[str, Any], same: bool
) -> None:
    one = write_typed(tmp_path / "one.safetensors", [("w", "F32", [4, 4], make_weights(4, 4).tobytes())])
    content = make_weights(4, 4, seed=9).tobytes()
    other_tensor = (change.get("name", "w"), "F32", change.get("shape", [4, 4]), content)
    other = write_typed(tmp_path / "other.safetensors", [other_tensor])
    digests = [open_checkpoint(path).info.layout_digest for path in (one, other)]
    assert (digests[0] == digests[1]) is same


def test_one_slice_of_a_stack_reads_like_a_tensor(tmp_path: Path) -> None:
    stack = make_weights(3, 4, 5)
    checkpoint = open_checkpoint(write_model(tmp_path, {"experts": stack}))
    for index in range(3):
        np.testing.assert_array_equal(checkpoint.read(checkpoint.tensors[0].slice(index)), stack[index])


def test_a_single_file_uses_the_configuration_beside_it(tmp_path: Path) -> None:
    write_model(tmp_path)
    assert open_checkpoint(tmp_path / "model.safetensors").config == LLAMA_CONFIG


def test_nonsense_beside_a_single_file_is_none_of_our_business(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "config.json").write_text("[not a model's")
    assert open_checkpoint(tmp_path / "model.safetensors").config == {}


class TestPickles:
    def test_they_hold_the_same_as_safetensors(self, tmp_path: Path) -> None:
        tensors = {name: torch.from_numpy(values) for name, values in llama_tensors().items()}
        torch.save(tensors, tmp_path / "pytorch_model.bin")
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint.info.format == "pickle"
        for tensor in checkpoint.tensors:
            np.testing.assert_array_equal(checkpoint.read(tensor), tensors[tensor.name].numpy())

    def test_a_training_checkpoint_is_unwrapped(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {"w": torch.ones(2, 3)}, "epoch": 3}, tmp_path / "last.pt")
        assert [(t.name, t.shape) for t in open_checkpoint(tmp_path / "last.pt").tensors] == [("w", (2, 3))]

    def test_bfloat16_slices_and_transposed_views_are_read_in_order(self, tmp_path: Path) -> None:
        stack = torch.from_numpy(make_weights(3, 4, 5)).bfloat16()
        torch.save({"stack": stack, "turned": stack[0].T}, tmp_path / "m.pt")
        checkpoint = open_checkpoint(tmp_path / "m.pt")
        by_name = {tensor.name: tensor for tensor in checkpoint.tensors}
        np.testing.assert_array_equal(checkpoint.read(by_name["stack"].slice(2)), stack[2].float().numpy())
        np.testing.assert_array_equal(checkpoint.read(by_name["turned"]), stack[0].T.float().numpy())

    def test_shared_storage_is_a_tie(self, tmp_path: Path) -> None:
        weights = torch.ones(4, 3)
        torch.save({"a": weights, "b": weights, "c": torch.ones(4, 3)}, tmp_path / "m.pt")
        assert open_checkpoint(tmp_path / "m.pt").ties == {"b": "a"}


class TestScales:
    def test_block_scales_are_applied(self, tmp_path: Path) -> None:
        codes = torch.from_numpy(make_weights(6, 8) * 50).to(torch.float8_e4m3fn)
        scale = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
        path = write_typed(
            tmp_path / "model.safetensors",
            [
                ("w.weight", "F8_E4M3", [6, 8], codes.view(torch.uint8).numpy().tobytes()),
                ("w.weight_scale_inv", "F32", [2, 2], scale.tobytes()),
            ],
        )
        (tmp_path / "config.json").write_text('{"quantization_config": {"weight_block_size": [4, 4]}}')
        checkpoint = open_checkpoint(path)
        expanded = np.kron(scale, np.ones((4, 4)))[:6, :8]
        np.testing.assert_array_equal(checkpoint.read(checkpoint.tensors[0]), codes.float().numpy() * expanded)

    @pytest.mark.parametrize("shape", [(), (1,), (6,), (6, 1)])
    def test_one_scale_or_one_per_row(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        codes = torch.from_numpy(make_weights(6, 8) * 50).to(torch.float8_e4m3fn)
        scale = np.arange(2, 2 + int(np.prod(shape)), dtype=np.float32)
        path = write_typed(
            tmp_path / "model.safetensors",
            [
                ("w.weight", "F8_E4M3", [6, 8], codes.view(torch.uint8).numpy().tobytes()),
                ("w.weight_scale", "F32", shape, scale.tobytes()),
            ],
        )
        checkpoint = open_checkpoint(path)
        expected = codes.float().numpy() * (scale if scale.size == 1 else scale[:, None])
        np.testing.assert_array_equal(checkpoint.read(checkpoint.tensors[0]), expected)

    def test_each_expert_has_its_own(self, tmp_path: Path) -> None:
        codes = torch.from_numpy(make_weights(2, 4, 4) * 50).to(torch.float8_e5m2)
        scale = np.array([[[2.0]], [[3.0]]], dtype=np.float32)
        path = write_typed(
            tmp_path / "model.safetensors",
            [
                ("experts", "F8_E5M2", [2, 4, 4], codes.view(torch.uint8).numpy().tobytes()),
                ("experts_scale", "F32", [2, 1, 1], scale.tobytes()),
            ],
        )
        checkpoint = open_checkpoint(path)
        expected = codes.float().numpy() * scale
        np.testing.assert_array_equal(checkpoint.read(checkpoint.tensors[0]), expected)
        np.testing.assert_array_equal(checkpoint.read(checkpoint.tensors[0].slice(1)), expected[1])
