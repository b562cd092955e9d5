"""Each quantiser's weight is read as one tensor, bit for bit as its own description says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from oblong import scan
from oblong.checkpoints import Checkpoint, open_checkpoint
from oblong.checkpoints.packed import packing
from oblong.checkpoints.packed.bits import compute_cell_variance, unpack_bits
from oblong.records import Scan, Status
from tests import packed_builders as build
from tests.checkpoint_builders import write_typed
from tests.tolerances import NF4_ROUNDING, ROUNDING_OF_A_PRODUCT

CONFIGS: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4},
    "gptq3": {"quant_method": "gptq", "bits": 3},
    "gptq_v2": {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"},
    "awq": {"quant_method": "awq", "bits": 4},
    "bnb": {"quant_method": "bitsandbytes"},
    "ct": {"quant_method": "compressed-tensors"},
    "none": {},
}

CASES: dict[str, tuple[build.Built, str, str]] = {
    "gptq2": (build.build_gptq(2, act=True), "gptq", "GPTQ2"),
    "gptq3": (build.build_gptq(3, act=True), "gptq", "GPTQ3"),
    "gptq3 of consecutive groups": (build.build_gptq(3, act=False), "gptq3", "GPTQ3"),
    "gptq4": (build.build_gptq(4, act=True), "gptq", "GPTQ4"),
    "gptq4 of consecutive groups": (build.build_gptq(4, act=False), "none", "GPTQ4"),
    "gptq4 of the second version": (build.build_gptq(4, act=True, v2=True), "gptq_v2", "GPTQ4"),
    "gptq8": (build.build_gptq(8, act=True), "gptq", "GPTQ8"),
    "gptq4 in one group": (build.build_gptq(4, act=False, group=96), "gptq", "GPTQ4"),
    "awq": (build.build_awq(), "awq", "AWQ4"),
    "awq without a configuration": (build.build_awq(), "none", "AWQ4"),
    "nf4": (build.build_bnb4(), "bnb", "NF4"),
    "nf4, nested": (build.build_bnb4(nested=True), "bnb", "NF4"),
    "nf4 that ends inside a block": (build.build_bnb4(shape=(7, 31)), "bnb", "NF4"),
    "fp4": (build.build_bnb4(kind="fp4", nested=True), "bnb", "FP4"),
    "int8": (build.build_bnb_int8(), "bnb", "BNB_INT8"),
    "compressed int4": (build.build_compressed(4), "ct", "CT_PACKED4"),
    "compressed int4 with zero points": (build.build_compressed(4, asymmetric=True), "ct", "CT_PACKED4"),
    "compressed int4 in an activation order": (build.build_compressed(4, act=True), "ct", "CT_PACKED4"),
    "compressed int8, packed": (build.build_compressed(8, asymmetric=True), "ct", "CT_PACKED8"),
    "compressed int8": (build.build_compressed_int8(), "ct", "CT_INT8"),
}


def open_stored(folder: Path, stored: build.Stored, config: dict[str, Any]) -> Checkpoint:
    write_typed(folder / "model.safetensors", stored)
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    return open_checkpoint(folder)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk_bytes", [packing.CHUNK_BYTES, 64])
def test_it_is_one_tensor_with_the_right_values(
    case: str, chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stored, weight), config, dtype = CASES[case]
    monkeypatch.setattr(packing, "CHUNK_BYTES", chunk_bytes)
    checkpoint = open_stored(tmp_path, stored, CONFIGS[config])
    (tensor,) = (tensor for tensor in checkpoint.tensors if tensor.packing)
    assert (tensor.name, tensor.dtype, tensor.shape) == ("m.weight", dtype, weight.shape)
    values = checkpoint.read(tensor)
    assert values is not None
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, weight.astype(np.float32))
    assert len(checkpoint.tensors) == len(stored)
    assert {t.companion_of for t in checkpoint.tensors if t is not tensor} == {"m.weight"}


@pytest.mark.parametrize("case", CASES)
def test_the_digest_covers_every_byte_that_decides_the_values(case: str, tmp_path: Path) -> None:
    (stored, _), config, _ = CASES[case]
    checkpoint = open_stored(tmp_path, stored, CONFIGS[config])
    (tensor,) = (tensor for tensor in checkpoint.tensors if tensor.packing)
    assert tensor.packing is not None
    data = {name: content for name, _, _, content in stored}
    names = [t.stored_name for t in (*tensor.packing.companions.values(), tensor)]
    assert set(data) - set(names) <= {"m.weight_format", "m.weight_shape"}
    expected = f"sha256:{hashlib.sha256(b''.join(data[name] for name in names)).hexdigest()}"
    assert checkpoint.digest(tensor) == checkpoint.load(tensor).digest == expected


class TestMxfp4:
    def test_it_is_what_transformers_reads(self, tmp_path: Path) -> None:
        from transformers.integrations.mxfp4 import convert_moe_packed_tensors

        stored = build.build_mxfp4()
        checkpoint = open_stored(tmp_path, stored, {"quant_method": "mxfp4"})
        blocks, scales = (
            torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(*shape) for _, _, shape, content in stored
        )
        expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
        tensor = checkpoint.tensors[0]
        assert (tensor.name, tensor.dtype) == ("model.layers.0.mlp.experts.gate_up_proj", "MXFP4")
        assert tensor.shape == expected.shape == (2, 64, 6)
        np.testing.assert_array_equal(checkpoint.read(tensor), expected)
        np.testing.assert_array_equal(checkpoint.read(tensor.slice(1)), expected[1])

    def test_it_is_what_gguf_reads(self, tmp_path: Path) -> None:
        stored = build.build_mxfp4(experts=1, rows=3)
        checkpoint = open_stored(tmp_path, stored, {})
        blocks, scales = (np.frombuffer(content, dtype=np.uint8).reshape(shape) for _, _, shape, content in stored)
        # ggml keeps the exponent first, then weights 0..15 in the lower halves and 16..31 in the upper ones.
        codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
        ggml = np.concatenate([scales[..., None], codes[..., :16] | (codes[..., 16:] << 4)], axis=-1)
        expected = dequantize(ggml.reshape(3, -1), GGMLQuantizationType.MXFP4)
        np.testing.assert_array_equal(checkpoint.read(checkpoint.tensors[0].slice(0)), expected.T)

    def test_an_exponent_that_is_no_number_gives_none(self, tmp_path: Path) -> None:
        name, dtype, shape, content = build.build_mxfp4(experts=1)[1]
        stored = [build.build_mxfp4(experts=1)[0], (name, dtype, shape, b"\xff" + content[1:])]
        checkpoint = open_stored(tmp_path, stored, {})
        values = checkpoint.read(checkpoint.tensors[0])
        assert values is not None
        assert np.isnan(values[0, :32, 0]).all()
        assert np.isfinite(values[0, :, 1:]).all()


def test_nvfp4_is_divided_by_its_global_scale(tmp_path: Path) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (4, 16)).astype(np.uint8)
    scales = torch.tensor([[1.0, 2.0]] * 4).to(torch.float8_e4m3fn)
    stored = [
        build.entry("m.weight_packed", blocks),
        ("m.weight_scale", "F8_E4M3", (4, 2), scales.view(torch.uint8).numpy().tobytes()),
        build.entry("m.weight_global_scale", np.array([4.0], dtype=np.float32)),
    ]
    checkpoint = open_stored(tmp_path, stored, CONFIGS["ct"])
    table = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    expected = [[table[blocks[i, j // 2] >> 4 * (j % 2) & 15] * (1 + j // 16) / 4 for j in range(32)] for i in range(4)]
    np.testing.assert_array_equal(checkpoint.read(checkpoint.tensors[0]), expected)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_the_bits_of_the_stream(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, 32)
    np.testing.assert_array_equal(unpack_bits(build.pack_stream(codes, bits), bits), codes)


def test_layouts_that_share_names_only_are_left_alone(tmp_path: Path) -> None:
    stored, _ = build.build_awq()
    checkpoint = open_stored(tmp_path, stored, {"quant_method": "awq", "version": "gemv"})
    assert [tensor.packing for tensor in checkpoint.tensors] == [None] * 3
    words = open_stored(tmp_path, [build.entry("bundle_blocks", np.zeros((2, 3), dtype=np.uint8))], {})
    assert words.tensors[0].packing is None


def test_fp8_codes_with_other_scales_have_another_digest(tmp_path: Path) -> None:
    digests = set()
    for scale in (1.0, 2.0):
        stored = [
            ("m.weight", "F8_E4M3", (2, 4), bytes(range(8))),
            build.entry("m.weight_scale", np.array([scale], dtype=np.float32)),
        ]
        checkpoint = open_stored(tmp_path, stored, CONFIGS["ct"])
        assert checkpoint.digest(checkpoint.tensors[0]) == checkpoint.load(checkpoint.tensors[0]).digest
        digests.add(checkpoint.digest(checkpoint.tensors[0]))
    assert len(digests) == 2


class TestRounding:
    def test_uniform_steps_lose_a_twelfth_of_their_square(self, tmp_path: Path) -> None:
        """rms(E) = sqrt(mean(step^2) / 12) of a row or column, the steps being the scales (out, groups)."""
        stored, _ = build.build_compressed(4)
        scales = np.frombuffer(stored[1][3], dtype=np.float16).astype(np.float64)
        checkpoint = open_stored(tmp_path, stored, CONFIGS["ct"])
        loaded = checkpoint.load(checkpoint.tensors[0])
        variances = scales.reshape(10, -1) ** 2 / 12
        worst = [np.sqrt(variances.mean(axis=axis).max()) for axis in (1, 0)]
        assert loaded.rounding_rms == pytest.approx(worst, rel=ROUNDING_OF_A_PRODUCT)

    def test_cells_of_a_uniform_grid_are_a_twelfth(self) -> None:
        """(0.5^3 + 0.5^3) / 3 = 1/12 inside; at the ends 0.5^3 / (3 * 0.5) = 1/12 too."""
        np.testing.assert_allclose(compute_cell_variance(np.arange(5, dtype=np.float32)), 1 / 12)

    def test_it_predicts_the_error_of_nf4(self, tmp_path: Path) -> None:
        """Gaussian weights, rounded as bitsandbytes does: the stated rms(E) is the actual one to a tenth."""
        weight = np.random.default_rng(0).normal(0, 0.02, (64, 64)).astype(np.float32)
        blocks = weight.reshape(-1, 64)
        absmax = np.abs(blocks).max(axis=1)
        codes = np.abs(blocks[:, :, None] / absmax[:, None, None] - build.NF4).argmin(axis=2).reshape(-1)
        state = json.dumps({"blocksize": 64, "shape": [64, 64]}).encode()
        stored = [
            build.entry("m.weight", (codes[::2] << 4 | codes[1::2]).astype(np.uint8)),
            build.entry("m.weight.absmax", absmax),
            build.entry("m.weight.quant_map", build.NF4),
            build.entry("m.weight.quant_state.bitsandbytes__nf4", np.frombuffer(state, dtype=np.uint8)),
        ]
        checkpoint = open_stored(tmp_path, stored, CONFIGS["bnb"])
        loaded = checkpoint.load(checkpoint.tensors[0])
        assert loaded.values is not None
        squares = (loaded.values.astype(np.float64) - weight) ** 2
        actual = np.sqrt(squares.mean(axis=0).mean())  # one block a row: every column has the same steps
        assert loaded.rounding_rms is not None
        assert loaded.rounding_rms[1] == pytest.approx(actual, rel=NF4_ROUNDING)
        assert loaded.rounding_rms[0] == pytest.approx(np.sqrt(squares.mean(axis=1).max()), rel=2 * NF4_ROUNDING)

    def test_rows_and_columns_change_places_with_the_values(self, tmp_path: Path) -> None:
        """One of six stored rows has 2^10 times the scale; gpt-oss transposes, so it is a column of the weight.

        Stored: worst row s, worst column sqrt((2^20 + 5) / 6) / 2^10 of that.
        """
        stored = build.build_mxfp4(experts=1)
        name, dtype, shape, _ = stored[0]
        stored[0] = (name, dtype, shape, bytes(6 * 32))
        exponents = np.full((6, 2), 117, dtype=np.uint8)
        exponents[3] = 127
        stored[1] = (*stored[1][:3], exponents.tobytes())
        checkpoint = open_stored(tmp_path, stored, {"quant_method": "mxfp4"})
        for tensor in (checkpoint.tensors[0], checkpoint.tensors[0].slice(0)):
            rounding = checkpoint.load(tensor).rounding_rms
            assert rounding is not None
            assert rounding[0] / rounding[1] == pytest.approx(np.sqrt((2**20 + 5) / 6) / 2**10)


class TestScans:
    def scan(self, folder: Path, stored: build.Stored, config: dict[str, Any]) -> Scan:
        open_stored(folder, stored, config)
        return scan(str(folder))

    def test_nothing_is_dropped_and_every_companion_has_its_reason(self, tmp_path: Path) -> None:
        stored, weight = build.build_gptq(4, act=True)
        result = self.scan(tmp_path, stored, CONFIGS["gptq"])
        unit = result["m.weight"]
        assert unit.status is Status.OK
        assert unit.eligible
        assert unit.measures is not None
        singular_values = np.linalg.svd(weight.astype(np.float32).astype(np.float64), compute_uv=False)
        assert unit.measures.kappa == pytest.approx(singular_values[0] / singular_values[-1])
        assert result.header.checkpoint.num_parameters == weight.size
        companions = [row for row in result if row is not unit]
        assert {row.name for row in companions} == {"m.qzeros", "m.scales", "m.g_idx"}
        for row in companions:
            assert row.role == "quantisation"
            assert not row.eligible
            assert row.reason == "part of the quantised m.weight, which is measured instead"

    def test_the_noise_floor_is_that_of_the_scales(self, tmp_path: Path) -> None:
        """Every step is 0.5, so the floor is 0.5 / sqrt(12) * (sqrt(64) + sqrt(96))."""
        stored, _ = build.build_gptq(4, act=True)
        name, dtype, shape, _ = stored[2]
        stored[2] = (name, dtype, shape, np.full(shape, 0.5, dtype=np.float16).tobytes())
        unit = self.scan(tmp_path, stored, CONFIGS["gptq"])["m.weight"]
        assert unit.measures is not None
        assert unit.measures.noise_floor == pytest.approx(0.5 / np.sqrt(12) * (np.sqrt(64) + np.sqrt(96)))

    def test_experts_are_units(self, tmp_path: Path) -> None:
        write_typed(tmp_path / "model.safetensors", build.build_mxfp4(columns=32))
        config = {"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        result = scan(str(tmp_path))
        parts = [unit.part for unit in result.measured]
        assert parts == ["expert.0.gate", "expert.0.up", "expert.1.gate", "expert.1.up"]
        assert all(unit.dtype == "MXFP4" and unit.digest for unit in result.measured)

    def test_awq_says_that_it_is_rescaled(self, tmp_path: Path) -> None:
        note = self.scan(tmp_path, build.build_awq()[0], CONFIGS["awq"])["m.weight"].note
        assert note is not None
        assert "rescaled its input channels" in note
