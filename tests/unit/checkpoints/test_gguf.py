from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from oblong.checkpoints import open_checkpoint
from oblong.errors import UnsupportedFormatError
from tests.checkpoint_builders import make_weights

HEADS, KEY_VALUE_HEADS, WIDTH = 4, 2, 32


def write_gguf(path: Path, tensors: dict[str, tuple[NDArray[Any], str]], *, architecture: str = "llama") -> Path:
    """A GGUF file of float32 values stored in the named formats."""
    writer = GGUFWriter(path, architecture)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    for name, (values, kind) in tensors.items():
        dtype = GGMLQuantizationType[kind]
        writer.add_tensor(name, quantize(values, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def interleave(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """llama.cpp's conversion of rotary rows: the halves of each head, one row of each in turn."""
    halves = rows.reshape(heads, 2, -1, rows.shape[1])
    return np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(rows.shape)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_formats_decode_as_the_gguf_package_does(tmp_path: Path, kind: str) -> None:
    values = make_weights(6, 64)
    path = write_gguf(tmp_path / "m.gguf", {"blk.0.ffn_up.weight": (values, kind)})
    checkpoint = open_checkpoint(path)
    dtype = GGMLQuantizationType[kind]
    expected = dequantize(quantize(values, dtype), dtype)
    np.testing.assert_array_equal(checkpoint.read(checkpoint.tensors[0]), expected)
    assert checkpoint.tensors[0].dtype == kind


def test_llama_gets_its_hugging_face_names_shapes_and_configuration(tmp_path: Path) -> None:
    tensors = {
        "token_embd.weight": (make_weights(50, WIDTH), "F32"),
        "blk.0.attn_norm.weight": (make_weights(WIDTH), "F32"),
        "blk.0.ffn_down.weight": (make_weights(WIDTH, 64), "Q8_0"),
        "output_norm.weight": (make_weights(WIDTH), "F32"),
    }
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors))
    assert {t.name: t.shape for t in checkpoint.tensors} == {
        "model.embed_tokens.weight": (50, WIDTH),
        "model.layers.0.input_layernorm.weight": (WIDTH,),
        "model.layers.0.mlp.down_proj.weight": (WIDTH, 64),
        "model.norm.weight": (WIDTH,),
    }
    assert checkpoint.config["num_attention_heads"] == HEADS
    assert checkpoint.info.architecture == "llama"


def test_rotary_rows_come_back_in_order(tmp_path: Path) -> None:
    q, k = make_weights(WIDTH, WIDTH), make_weights(WIDTH // 2, WIDTH, seed=1)
    tensors = {
        "blk.0.attn_q.weight": (interleave(q, HEADS), "F32"),
        "blk.0.attn_k.weight": (interleave(k, KEY_VALUE_HEADS), "F32"),
    }
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors))
    read = {tensor.name: checkpoint.read(tensor) for tensor in checkpoint.tensors}
    np.testing.assert_array_equal(read["model.layers.0.self_attn.q_proj.weight"], q)
    np.testing.assert_array_equal(read["model.layers.0.self_attn.k_proj.weight"], k)


def test_other_architectures_keep_their_names_and_say_so(tmp_path: Path) -> None:
    tensors = {"blk.0.attn_q.weight": (make_weights(WIDTH, WIDTH), "F32")}
    (tensor,) = open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors, architecture="mamba")).tensors
    assert tensor.name == "blk.0.attn_q.weight"
    assert tensor.interleaved_heads == 0
    assert tensor.note is not None
    assert "mamba" in tensor.note


def test_a_directory_with_several_files_asks_for_one(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        write_gguf(tmp_path / name, {"output.weight": (make_weights(4, 32), "F32")})
    with pytest.raises(UnsupportedFormatError, match=r"2 GGUF files \(a\.gguf, b\.gguf\); name the one"):
        open_checkpoint(tmp_path)
