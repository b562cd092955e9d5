"""Quantised weights as each quantiser stores them, packed value by value from the formats' descriptions.

Every builder returns the stored tensors of one weight as (name, dtype, shape, bytes) and the exact weight, out x in.
The packing loops are slow on purpose: they share nothing with the code under test.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Stored = list[tuple[str, str, Sequence[int], bytes]]
Built = tuple[Stored, NDArray[np.float64]]

CODES = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64", "int8": "I8", "uint8": "U8"}

# Source: QLoRA (Dettmers et al. 2023), appendix E.
NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
        *(0.7229568362236023, 1.0),
    ],
    dtype=np.float32,
)


def entry(name: str, array: NDArray[Any]) -> tuple[str, str, Sequence[int], bytes]:
    return name, CODES[array.dtype.name], array.shape, array.tobytes()


def pack_stream(codes: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """One row of codes as 32-bit words, bit by bit."""
    total = 0
    for position, code in enumerate(codes):
        total |= int(code) << (position * bits)
    count = -(-len(codes) * bits // 32)
    return np.array([(total >> (32 * i)) & 0xFFFFFFFF for i in range(count)], dtype=np.uint32).view(np.int32)


def build_gptq(bits: int, *, rows: int = 64, columns: int = 96, group: int = 32, v2: bool = False, act: bool) -> Built:
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 1 << bits, (columns, rows))
    groups = columns // group
    zeros = rng.integers(0, 1 << bits, (groups, rows))
    zeros[0, :2] = 0, (1 << bits) - 1
    scales = rng.uniform(0.001, 0.1, (groups, rows)).astype(np.float16)
    g_idx = rng.permutation(np.arange(columns) // group) if act else np.arange(columns) // group
    weight = np.empty((rows, columns))
    for i in range(columns):
        weight[:, i] = (codes[i] - zeros[g_idx[i]]) * scales[g_idx[i]].astype(np.float64)
    stored_zeros = zeros if v2 else (zeros - 1) % (1 << bits)
    stored = [
        entry("m.qweight", np.stack([pack_stream(codes[:, j], bits) for j in range(rows)], axis=1)),
        entry("m.qzeros", np.stack([pack_stream(row, bits) for row in stored_zeros])),
        entry("m.scales", scales),
    ]
    return [*stored, entry("m.g_idx", g_idx.astype(np.int32))] if act else stored, weight


def build_awq(*, rows: int = 16, columns: int = 64, group: int = 32) -> Built:
    rng = np.random.default_rng(1)
    codes, zeros = rng.integers(0, 16, (columns, rows)), rng.integers(0, 16, (columns // group, rows))
    scales = rng.uniform(0.001, 0.1, zeros.shape).astype(np.float16)
    weight = np.empty((rows, columns))
    for i in range(columns):
        weight[:, i] = (codes[i] - zeros[i // group]) * scales[i // group].astype(np.float64)
    parts: dict[str, NDArray[Any]] = {"m.qweight": pack_awq(codes), "m.qzeros": pack_awq(zeros), "m.scales": scales}
    return [entry(name, array) for name, array in parts.items()], weight


def pack_awq(codes: NDArray[Any]) -> NDArray[np.int32]:
    """AutoAWQ: nibble i of a word holds the output channel order_map[i] of its eight."""
    order_map = [0, 2, 4, 6, 1, 3, 5, 7]
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), dtype=np.uint32)
    for column in range(words.shape[1]):
        for i in range(8):
            words[:, column] |= codes[:, column * 8 + order_map[i]].astype(np.uint32) << np.uint32(4 * i)
    return words.view(np.int32)


def build_bnb4(*, kind: str = "nf4", nested: bool = False, shape: tuple[int, int] = (6, 48), block: int = 64) -> Built:
    rng = np.random.default_rng(2)
    count = shape[0] * shape[1]
    codes = rng.integers(0, 16, count)
    table = NF4 if kind == "nf4" else rng.uniform(-1, 1, 16).astype(np.float32)
    packed = [(codes[i] << 4) | (codes[i + 1] if i + 1 < count else 0) for i in range(0, count, 2)]
    blocks = -(-count // block)
    state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": list(shape)}
    absmax: NDArray[Any] = rng.uniform(0.01, 0.1, blocks).astype(np.float32)
    extra: Stored = []
    stored_absmax = absmax
    if nested:
        state |= {"nested_blocksize": 4, "nested_dtype": "float32", "nested_offset": 0.05}
        stored_absmax = rng.integers(0, 256, blocks).astype(np.uint8)
        nested_map = np.sort(rng.uniform(-1, 1, 256)).astype(np.float32)
        nested_absmax = rng.uniform(0.001, 0.01, -(-blocks // 4)).astype(np.float32)
        absmax = np.array(
            [nested_map[stored_absmax[i]] * nested_absmax[i // 4] + np.float32(0.05) for i in range(blocks)]
        )
        extra = [entry("m.weight.nested_absmax", nested_absmax), entry("m.weight.nested_quant_map", nested_map)]
    weight = np.array([table[codes[i]] * absmax[i // block] for i in range(count)], dtype=np.float32)
    raw = np.frombuffer(json.dumps(state).encode(), dtype=np.uint8)
    stored = [
        entry("m.weight", np.array(packed, dtype=np.uint8).reshape(-1, 1)),
        entry("m.weight.absmax", stored_absmax),
        entry("m.weight.quant_map", table),
        *extra,
        entry(f"m.weight.quant_state.bitsandbytes__{kind}", raw),
    ]
    return stored, weight.reshape(shape).astype(np.float64)


def build_bnb_int8(*, rows: int = 12, columns: int = 20) -> Built:
    rng = np.random.default_rng(3)
    codes = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
    maxima = rng.uniform(0.1, 1, rows).astype(np.float32)
    weight_format = np.zeros((), dtype=np.uint8)
    parts: dict[str, NDArray[Any]] = {"m.weight": codes, "m.SCB": maxima, "m.weight_format": weight_format}
    weight = codes * maxima[:, None] * np.float32(7.874015718698502e-3)
    return [entry(name, array) for name, array in parts.items()], weight.astype(np.float64)


def build_compressed(
    bits: int, *, rows: int = 10, columns: int = 36, group: int = 12, asymmetric: bool = False, act: bool = False
) -> Built:
    rng = np.random.default_rng(4)
    low, high = -(1 << (bits - 1)), 1 << (bits - 1)
    codes = rng.integers(low, high, (rows, columns))
    scales = rng.uniform(0.001, 0.1, (rows, columns // group)).astype(np.float16)
    zeros = rng.integers(low, high, scales.shape) if asymmetric else np.zeros(scales.shape, dtype=np.int64)
    g_idx = rng.permutation(np.arange(columns) // group) if act else np.arange(columns) // group
    weight = (codes - zeros[:, g_idx]) * scales[:, g_idx].astype(np.float64)
    stored = [
        entry("m.weight_packed", pack_words(codes - low, bits)),
        entry("m.weight_scale", scales),
        entry("m.weight_shape", np.array([rows, columns])),
    ]
    if asymmetric:
        stored.append(entry("m.weight_zero_point", pack_words((zeros - low).T, bits).T.copy()))
    if act:
        stored.append(entry("m.weight_g_idx", g_idx.astype(np.int32)))
    return stored, weight.astype(np.float64)


def pack_words(codes: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """32 // bits codes in a word, the first lowest, along the last dimension."""
    per_word = 32 // bits
    words = np.zeros((codes.shape[0], -(-codes.shape[1] // per_word)), dtype=np.uint32)
    for column in range(codes.shape[1]):
        shift = np.uint32(bits * (column % per_word))
        words[:, column // per_word] |= codes[:, column].astype(np.uint32) << shift
    return words.view(np.int32)


def build_compressed_int8(*, rows: int = 8, columns: int = 12) -> Built:
    rng = np.random.default_rng(5)
    codes = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
    scales = rng.uniform(0.001, 0.1, (rows, 1)).astype(np.float32)
    weight = codes * scales.astype(np.float64)
    return [entry("m.weight", codes), entry("m.weight_scale", scales)], weight.astype(np.float64)


def build_mxfp4(*, experts: int = 2, rows: int = 6, columns: int = 64) -> Stored:
    rng = np.random.default_rng(6)
    blocks = rng.integers(0, 256, (experts, rows, columns // 32, 16)).astype(np.uint8)
    scales = rng.integers(110, 130, blocks.shape[:-1]).astype(np.uint8)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    return [entry(f"{name}_blocks", blocks), entry(f"{name}_scales", scales)]
