"""Quantised weights whose parts are missing, do not fit or lie: each is refused by name, before memory is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oblong.cli.main import run
from tests import packed_builders as build
from tests.checkpoint_builders import write_typed

Attack = Callable[[], build.Stored]

GPTQ = build.build_gptq(4, act=True)[0]
NF4 = build.build_bnb4(nested=True)[0]
COMPRESSED = build.build_compressed(4, asymmetric=True, act=True)[0]
PACKED: dict[str, tuple[build.Stored, str]] = {
    "gptq": (GPTQ, "gptq"),
    "awq": (build.build_awq()[0], "awq"),
    "nf4": (NF4, "bitsandbytes"),
    "int8": (build.build_bnb_int8()[0], "bitsandbytes"),
    "mxfp4": (build.build_mxfp4(), "mxfp4"),
    "compressed": (COMPRESSED, "compressed-tensors"),
}
OPTIONAL = ("g_idx", "weight_format", "zero_point")
REQUIRED = [
    (kind, index)
    for kind, (stored, _) in PACKED.items()
    for index, (name, *_) in enumerate(stored)
    if index and not name.endswith(OPTIONAL)
]
COMPANIONS = [
    (kind, i)
    for kind, (stored, _) in PACKED.items()
    for i, (name, *_) in enumerate(stored)
    if i and not name.endswith("weight_format")  # not needed, so not looked at
]


def refuse(folder: Path, stored: build.Stored, method: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Scan it; it must be refused. Returns what was said."""
    folder.mkdir(exist_ok=True)
    write_typed(folder / "model.safetensors", stored)
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": method}}))
    output = folder / "s.jsonl"
    assert run(["scan", str(folder), "-o", str(output)]) == 2
    streams = capsys.readouterr()
    assert "corrupt checkpoint: tensor " in streams.err
    assert "Traceback" not in streams.err
    assert not output.exists()
    return " ".join(streams.err.split())


@pytest.mark.parametrize(("kind", "index"), REQUIRED)
def test_a_missing_companion_is_named(
    kind: str, index: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored, method = PACKED[kind]
    message = refuse(tmp_path / "m", [part for i, part in enumerate(stored) if i != index], method, capsys)
    name = stored[index][0]
    # Whether absmax is twice quantised stands in the state, which names the tensor to look for.
    assert f"its companion {name} " in message


@pytest.mark.parametrize(("kind", "index"), [c for c in COMPANIONS if c != ("nf4", len(NF4) - 1)])
def test_a_companion_of_the_wrong_shape_is_named(
    kind: str, index: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored, method = PACKED[kind]
    name, dtype, shape, content = stored[index]
    twice = [
        *stored[:index],
        (name, dtype, [2 * size for size in shape], content * 2 ** len(shape)),
        *stored[index + 1 :],
    ]
    assert "its shape is" in refuse(tmp_path / "m", twice, method, capsys)


@pytest.mark.parametrize(("kind", "index"), COMPANIONS)
def test_a_companion_of_another_dtype_is_named(
    kind: str, index: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored, method = PACKED[kind]
    name, _, shape, _ = stored[index]
    count = max(int(np.prod(shape)), 1)
    wrong = (name, "F64", shape, bytes(8 * count))
    message = refuse(tmp_path / "m", [*stored[:index], wrong, *stored[index + 1 :]], method, capsys)
    assert f"tensor {name}: it is F64" in message


def with_state(text: bytes) -> build.Stored:
    name, dtype, _, _ = NF4[-1]
    return [*NF4[:-1], (name, dtype, [len(text)], text)]


def state(**change: object) -> bytes:
    return json.dumps({**json.loads(NF4[-1][3]), **change}).encode()


STATES = {
    b"{": "is not valid JSON",
    b"\xff\xfe\x00": "is not valid JSON",
    b"[" * 50_000: "is not valid JSON",
    b"[1]": "is not a JSON object",
    b" " * 100_000: "too many for what it should be",
    state(shape=[2**40, 2**40]): "holds 288 codes",
    state(shape=[-6, -48]): "has the shape [-6, -48]",
    state(shape=None): "has the shape None",
    state(shape=[True, 288]): "has the shape [True, 288]",
    state(blocksize=0): "has the blocksize 0",
    state(blocksize=-64): "has the blocksize -64",
    state(blocksize="64"): "has the blocksize '64'",
    state(blocksize=2**60): "has the blocksize",
    state(nested_blocksize=1.5): "has the nested_blocksize 1.5",
    state(nested_offset=float("inf")): "has the nested_offset inf",
    state(nested_offset=[]): "has the nested_offset []",
}


@pytest.mark.parametrize("text", STATES, ids=list(STATES.values()))
def test_a_state_that_lies_is_named(text: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refuse(tmp_path / "m", with_state(text), "bitsandbytes", capsys)
    assert "tensor m.weight.quant_state.bitsandbytes__nf4: " in message
    assert STATES[text] in message


@pytest.mark.parametrize("group", [-1, 3, 2**31 - 1])
def test_a_group_that_does_not_exist_is_named(group: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stored, method, name in ((GPTQ, "gptq", "m.qweight"), (COMPRESSED, "compressed-tensors", "m.weight_packed")):
        columns = stored[-1][2][0]
        bad = build.entry(stored[-1][0], np.full(columns, group, dtype=np.int32))
        message = refuse(tmp_path / method, [*stored[:-1], bad], method, capsys)
        assert f"tensor {name}: g_idx names a group outside 0 to 2" in message


@pytest.mark.parametrize("shape", [[10, 2**40], [-10, 36], [0, 0], [2**62, 36], [10, 0]])
def test_a_declared_shape_that_does_not_fit_is_named(
    shape: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = [build.entry(n, np.array(shape)) if n.endswith("weight_shape") else (n, *rest) for n, *rest in COMPRESSED]
    message = refuse(tmp_path / "m", stored, "compressed-tensors", capsys)  # type: ignore[arg-type]
    assert "tensor m.weight" in message


@pytest.mark.parametrize("bits", [0, 1, 5, 16, "4", True, None, 4.5])
def test_bits_that_gptq_has_not_are_refused(bits: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_typed(tmp_path / "model.safetensors", GPTQ[:3])
    config = {"quantization_config": {"quant_method": "gptq", "bits": bits}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run(["scan", str(tmp_path), "-o", str(tmp_path / "s.jsonl")]) == 2
    assert "tensor m.qweight: its 12 rows of words do not fit" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("declared", [[], "gptq", 3, {"quant_method": 7}, {"config_groups": [1]}])
def test_a_strange_declaration_is_survived(declared: object, tmp_path: Path) -> None:
    write_typed(tmp_path / "model.safetensors", GPTQ)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": declared}))
    assert run(["scan", str(tmp_path), "-o", str(tmp_path / "s.jsonl")]) == 0


def write_fp8(folder: Path, shape: list[int], scale: tuple[str, list[int]], suffix: str = "_scale") -> Path:
    count, scales = int(np.prod(shape)), max(int(np.prod(scale[1])), 0)
    size = {"F32": 4, "BF16": 2, "U8": 1, "F8_E8M0": 1}[scale[0]]
    parts = [("a.weight", "F8_E4M3", shape, bytes([0x38]) * count), (f"a.weight{suffix}", *scale, bytes(size * scales))]
    return write_typed(folder / "m.safetensors", parts)


@pytest.mark.parametrize("suffix", ["_scale", "_scale_inv"])
@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ([8, 6], [6]),
        ([8, 6], [7, 1]),
        ([8, 6], [8, 6, 1]),
        ([8, 6], [0]),
        ([8, 6], [16, 1]),
        ([8], [8]),
        ([3, 8, 6], [2]),
    ],
)
def test_fp8_scales_of_the_wrong_shape_are_named(
    shape: list[int], scale: list[int], suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_fp8(tmp_path, shape, ("F32", scale), suffix)
    assert run(["scan", str(path), "-o", str(tmp_path / "s.jsonl")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"m.safetensors: corrupt checkpoint: tensor a.weight{suffix}: its shape is {scale}" in message
    assert "scan the original" in message


@pytest.mark.parametrize("dtype", ["U8", "F8_E8M0"])
def test_fp8_scales_that_cannot_be_decoded_are_named(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_fp8(tmp_path, [8, 6], (dtype, [8, 1]))
    assert run(["scan", str(path), "-o", str(tmp_path / "s.jsonl")]) == 2
    assert f"tensor a.weight_scale: it is {dtype}, but scales are read as" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("block", [None, 4, [4], [0, 4], ["4", 4], [4, float("inf")], [[4], 4], {"a": 1}])
def test_a_block_size_that_is_none_leaves_the_shapes_to_decide(block: object, tmp_path: Path) -> None:
    write_fp8(tmp_path, [8, 6], ("F32", [2, 3]))
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"weight_block_size": block}}))
    assert run(["scan", str(tmp_path), "-o", str(tmp_path / "s.jsonl")]) == 0


def test_a_block_far_larger_than_the_weight_takes_no_memory(tmp_path: Path) -> None:
    write_fp8(tmp_path, [8, 6], ("F32", [8, 1]))
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"weight_block_size": [1, 2**53]}}))
    assert run(["scan", str(tmp_path), "-o", str(tmp_path / "s.jsonl")]) == 0
