"""Good checkpoints of every format that oblong reads, as bytes by file name: what the mutations start from."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from tests import packed_builders as packed
from tests.checkpoint_builders import LLAMA_CONFIG, llama_tensors, make_weights

Files = dict[str, bytes]
Entry = tuple[str, str, Sequence[int], bytes]

SAFETENSORS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
CONFIG: Final = "config.json"
GGUF_STRING, GGUF_U32, GGUF_ARRAY = 8, 4, 9
GGUF_ALIGNMENT: Final = 32
GGUF_KINDS: Final = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K")
GGUF_OTHER_KINDS: Final = ("Q6_K", "IQ4_NL", "IQ4_XS", "IQ2_XXS", "MXFP4", "F64", "I32")


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a GGUF file: `kind` is u32, u64, string (with its length) or data."""

    kind: str
    content: bytes


def join_safetensors(entries: Sequence[Entry]) -> bytes:
    """One file, byte by byte."""
    header: dict[str, Any] = {}
    data = b""
    for name, dtype, shape, content in entries:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + data


def to_json(data: Any) -> bytes:
    """As a model's JSON files are written."""
    return json.dumps(data).encode()


def build_single() -> Files:
    return {SAFETENSORS: join_safetensors(_llama_entries()), CONFIG: to_json(LLAMA_CONFIG)}


def build_sharded() -> Files:
    entries = _llama_entries()
    shards = {f"model-0000{i + 1}-of-00002.safetensors": entries[i::2] for i in range(2)}
    weight_map = {name: shard for shard, members in shards.items() for name, *_ in members}
    files = {shard: join_safetensors(members) for shard, members in shards.items()}
    index = to_json({"metadata": {"total_size": 1}, "weight_map": weight_map})
    return {**files, INDEX: index, CONFIG: to_json(LLAMA_CONFIG)}


def build_fused() -> Files:
    """Stacked experts, fused qkv, a convolution and a scalar: every splitter is reached."""
    arrays = {
        "model.layers.0.mlp.experts.gate_up_proj": make_weights(3, 8, 12),
        "model.layers.0.mlp.experts.down_proj": make_weights(3, 6, 8),
        "model.layers.0.self_attn.qkv_proj.weight": make_weights(16, 8),
        "model.layers.0.mlp.gate_up_proj.weight": make_weights(12, 8),
        "model.layers.0.self_attn.kv_b_proj.weight": make_weights(12, 8),
        "conv1.weight": make_weights(4, 3, 3, 3),
        "lm_head.weight": make_weights(10, 8),
        "model.embed_tokens.weight": make_weights(10, 8),
        "scale": np.ones((), dtype=np.float32),
    }
    config = {
        **{"model_type": "mixtral", "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1},
        **{"head_dim": 4, "qk_nope_head_dim": 2, "v_head_dim": 4, "text_config": {"model_type": "mixtral"}},
    }
    return {SAFETENSORS: join_safetensors(_entries(arrays)), CONFIG: to_json(config)}


def build_fp8() -> Files:
    rng = np.random.default_rng(7)

    def codes(rows: int, columns: int) -> bytes:
        return bytes(rng.integers(0x20, 0x60, rows * columns).astype(np.uint8).tobytes())

    def scale(*shape: int) -> bytes:
        return bytes(rng.uniform(0.1, 1, shape).astype(np.float32).tobytes())

    entries: list[Entry] = [
        ("model.layers.0.self_attn.q_proj.weight", "F8_E4M3", (8, 12), codes(8, 12)),
        ("model.layers.0.self_attn.q_proj.weight_scale", "F32", (8, 1), scale(8, 1)),
        ("model.layers.0.mlp.up_proj.weight", "F8_E4M3", (8, 12), codes(8, 12)),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", "F32", (2, 3), scale(2, 3)),
        ("model.layers.0.mlp.experts.down_proj", "F8_E5M2", (2, 8, 12), codes(16, 12)),
        ("model.layers.0.mlp.experts.down_proj_scale", "F32", (2, 1, 12), scale(2, 1, 12)),
        ("lm_head.weight", "F8_E4M3", (8, 12), codes(8, 12)),
        ("lm_head.weight_scale", "F32", (), scale()),
    ]
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 4]}}
    return {SAFETENSORS: join_safetensors(entries), CONFIG: to_json(config)}


def build_packed(stored: packed.Stored, method: str, **more: Any) -> Files:
    config = {"quantization_config": {"quant_method": method, **more}}
    return {SAFETENSORS: join_safetensors(stored), CONFIG: to_json(config)}


def build_pickle(name: str = "pytorch_model.bin", *, is_zip: bool = True, wrapper: str | None = None) -> Files:
    tensors: Any = {key: torch.from_numpy(value) for key, value in llama_tensors(layers=1).items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["half.weight"] = torch.ones(4, 4, dtype=torch.bfloat16)
    buffer = io.BytesIO()
    data = {wrapper: tensors} if wrapper else tensors
    torch.save(data, buffer, _use_new_zipfile_serialization=is_zip)
    return {name: buffer.getvalue(), CONFIG: to_json(LLAMA_CONFIG)}


def list_gguf_segments(kinds: Sequence[str], architecture: str = "llama") -> list[Segment]:
    """A GGUF file of one (2, 256) tensor per kind, in pieces that can be exchanged one by one."""
    pairs: Mapping[str, int | str] = {
        "general.architecture": architecture,
        f"{architecture}.attention.head_count": 2,
        f"{architecture}.attention.head_count_kv": 1,
        f"{architecture}.block_count": 1,
        "general.name": "seed",
    }
    names = ("token_embd", "blk.0.attn_q", "blk.0.attn_k", "blk.0.ffn_up", "blk.0.ffn_down", "output")
    segments = [Segment("data", b"GGUF"), _u32(3), _u64(len(kinds)), _u64(len(pairs) + 1)]
    for key, value in pairs.items():
        is_text = isinstance(value, str)
        segments += [_string(key), _u32(GGUF_STRING if is_text else GGUF_U32)]
        segments.append(_string(value) if isinstance(value, str) else _u32(value))
    segments += [_string("tokenizer.ggml.tokens"), _u32(GGUF_ARRAY), _u32(GGUF_STRING), _u64(3)]
    segments += [_string(token) for token in ("a", "bc", "d" * 20)]
    data = b""
    for index, kind in enumerate(kinds):
        content = _fill_gguf(kind)
        segments += [_string(f"{names[index % len(names)]}.{'weight' if index < len(names) else index}"), _u32(2)]
        segments += [_u64(256), _u64(2), _u32(GGMLQuantizationType[kind].value), _u64(len(data))]
        data += content + bytes(-len(content) % GGUF_ALIGNMENT)
    header = b"".join(segment.content for segment in segments)
    return [*segments, Segment("data", bytes(-len(header) % GGUF_ALIGNMENT)), Segment("data", data)]


@cache
def make_seeds() -> Mapping[str, Files]:
    """Every good checkpoint, by the name of its format."""
    return {
        "single": build_single(),
        "sharded": build_sharded(),
        "fused": build_fused(),
        "fp8": build_fp8(),
        "gguf": {"m.gguf": _join_gguf(GGUF_KINDS)},
        "gguf-more": {"m.gguf": _join_gguf(GGUF_OTHER_KINDS, "qwen2")},
        "zip": build_pickle(),
        "zip-wrapped": build_pickle("m.pt", wrapper="state_dict"),
        "legacy": build_pickle("m.pth", is_zip=False),
        "nf4": build_packed(packed.build_bnb4()[0], "bitsandbytes"),
        "nf4-nested": build_packed(packed.build_bnb4(nested=True)[0], "bitsandbytes"),
        "bnb-int8": build_packed(packed.build_bnb_int8()[0], "bitsandbytes"),
        "gptq": build_packed(packed.build_gptq(4, act=True)[0], "gptq", bits=4, group_size=32),
        "gptq3": build_packed(packed.build_gptq(3, act=False)[0], "gptq", bits=3, group_size=32),
        "awq": build_packed(packed.build_awq()[0], "awq", bits=4, version="gemm"),
        "mxfp4": build_packed(packed.build_mxfp4(), "mxfp4"),
        "compressed": build_packed(packed.build_compressed(4, asymmetric=True, act=True)[0], "compressed-tensors"),
        "compressed-int8": build_packed(packed.build_compressed_int8()[0], "compressed-tensors"),
    }


def _llama_entries() -> list[Entry]:
    return _entries(llama_tensors(layers=1))


def _entries(arrays: Mapping[str, Any]) -> list[Entry]:
    return [(name, "F32", array.shape, array.tobytes()) for name, array in arrays.items()]


def _join_gguf(kinds: Sequence[str], architecture: str = "llama") -> bytes:
    return b"".join(segment.content for segment in list_gguf_segments(kinds, architecture))


def _fill_gguf(kind: str) -> bytes:
    """Bytes that decode to moderate numbers whatever the kind: the float16 scales in them are small."""
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    pattern = np.random.default_rng(8).integers(0x20, 0x30, 512 // values * size)
    return bytes(pattern.astype(np.uint8).tobytes())


def _u32(value: int) -> Segment:
    return Segment("u32", struct.pack("<I", value))


def _u64(value: int) -> Segment:
    return Segment("u64", struct.pack("<Q", value))


def _string(text: str) -> Segment:
    return Segment("string", struct.pack("<Q", len(text)) + text.encode())
