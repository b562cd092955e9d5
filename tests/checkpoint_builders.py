"""Small checkpoints for tests: byte by byte where they must be wrong, by the libraries where they must be right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "uint8": "U8"}


def make_weights(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Gaussian, scaled like trained weights."""
    values: NDArray[np.float32] = np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)
    return values


def to_bf16_bytes(values: NDArray[np.float32]) -> bytes:
    """Truncated, not rounded: only the exactness of decoding is tested."""
    return (values.view(np.uint32) >> 16).astype("<u2").tobytes()


def write_raw(path: Path, header: Mapping[str, Any] | bytes, data: bytes = b"", *, length: int | None = None) -> Path:
    """A safetensors file with any header, right or wrong."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def write_typed(path: Path, tensors: Sequence[tuple[str, str, Sequence[int], bytes]]) -> Path:
    """A valid safetensors file of (name, dtype, shape, bytes), in this order."""
    header: dict[str, Any] = {}
    data = b""
    for name, dtype, shape, content in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    raw = json.dumps(header).encode()
    return write_raw(path, raw + b" " * (-len(raw) % 8), data)


def llama_tensors(*, layers: int = 2, width: int = 16, hidden: int = 40, vocab: int = 64) -> dict[str, NDArray[Any]]:
    """The tensors of a tiny Llama with fewer key-value heads and a tied output layer."""
    shapes = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (width // 2, width),
        "self_attn.v_proj": (width // 2, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (hidden, width),
        "mlp.up_proj": (hidden, width),
        "mlp.down_proj": (width, hidden),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    tensors: dict[str, NDArray[Any]] = {"model.embed_tokens.weight": make_weights(vocab, width, seed=1)}
    for layer in range(layers):
        for index, (name, shape) in enumerate(shapes.items()):
            seed = 100 * layer + index + 2
            tensors[f"model.layers.{layer}.{name}.weight"] = make_weights(*shape, seed=seed)
    tensors["model.norm.weight"] = np.ones(width, dtype=np.float32)
    return tensors


LLAMA_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


def write_model(
    directory: Path, tensors: Mapping[str, NDArray[Any]] | None = None, config: Mapping[str, Any] | None = None
) -> Path:
    """A model directory with one safetensors file."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors if tensors is not None else llama_tensors()), directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config if config is not None else LLAMA_CONFIG))
    return directory


def write_sharded(directory: Path, shards: Mapping[str, Mapping[str, NDArray[Any]]]) -> Path:
    """A model directory with shards and their index."""
    directory.mkdir(parents=True, exist_ok=True)
    for shard, tensors in shards.items():
        save_file(dict(tensors), directory / shard)
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory
