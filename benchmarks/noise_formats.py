"""Weights stored in each format as its quantiser stores them: files that `oblong scan` reads, for `scan_noise`.

Every writer takes the unrounded weights (out, in), float64, by module name; the numbers of columns are multiples of 64
and those of rows multiples of 8. Rounding is to nearest: GPTQ's own error compensation is another matter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from numpy.typing import NDArray

from tests.checkpoint_builders import write_typed
from tests.packed_builders import NF4, Stored, entry

Weights = Mapping[str, NDArray[np.float64]]
Writer = Callable[[Path, Weights], Path]

FP8_MAX: Final = 448.0
FP8_BLOCK: Final = 128


def write_safetensors(
    folder: Path, weights: Weights, store: Callable[[str, NDArray[np.float64]], Stored], config: dict[str, Any]
) -> Path:
    """One file and a configuration that names the quantiser."""
    folder.mkdir(parents=True)
    tensors = [tensor for name, weight in weights.items() for tensor in store(name, weight)]
    write_typed(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps({"quantization_config": config} if config else {}))
    return folder


def store_float(dtype: torch.dtype, code: str, name: str, weight: NDArray[np.float64]) -> Stored:
    """A plain floating-point tensor."""
    stored = torch.from_numpy(weight).to(dtype)
    return [(f"{name}.weight", code, weight.shape, stored.view(torch.uint8).numpy().tobytes())]


def store_fp8(name: str, weight: NDArray[np.float64], *, block: int | None) -> Stored:
    """E4M3 with one scale for the tensor, or for every block as DeepSeek stores it."""
    if block is None:
        scales = np.array([[np.abs(weight).max()]]) / FP8_MAX
        factors = scales
    else:
        m, n = weight.shape
        rows, columns = np.arange(m) // block, np.arange(n) // block
        scales = np.zeros((rows[-1] + 1, columns[-1] + 1))
        np.maximum.at(scales, (rows[:, None], columns[None, :]), np.abs(weight))
        scales = np.maximum(scales, 1e-30) / FP8_MAX
        factors = scales[rows][:, columns]
    scales = scales.astype(np.float32)
    codes = torch.from_numpy(weight / factors.astype(np.float32)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    suffix = "weight_scale" if block is None else "weight_scale_inv"
    scale = scales.reshape(-1) if block is None else scales
    return [(f"{name}.weight", "F8_E4M3", weight.shape, codes.tobytes()), entry(f"{name}.{suffix}", scale)]


def store_int8(name: str, weight: NDArray[np.float64]) -> Stored:
    """LLM.int8() of bitsandbytes: row absmax."""
    maxima = np.abs(weight).max(axis=1).astype(np.float32)
    codes = np.rint(weight * (127.0 / maxima[:, None])).clip(-127, 127).astype(np.int8)
    return [entry(f"{name}.weight", codes), entry(f"{name}.SCB", maxima)]


def store_nf4(name: str, weight: NDArray[np.float64], *, block: int = 64) -> Stored:
    """NF4 of bitsandbytes, blocks of 64, scales not quantised again."""
    blocks = weight.reshape(-1, block)
    absmax = np.abs(blocks).max(axis=1).astype(np.float32)
    middles = (NF4[1:].astype(np.float64) + NF4[:-1]) / 2
    codes = np.searchsorted(middles, blocks / absmax[:, None]).astype(np.uint8).reshape(-1)
    state = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": list(weight.shape)}
    return [
        entry(f"{name}.weight", ((codes[::2] << 4) | codes[1::2]).reshape(-1, 1)),
        entry(f"{name}.weight.absmax", absmax),
        entry(f"{name}.weight.quant_map", NF4),
        entry(
            f"{name}.weight.quant_state.bitsandbytes__nf4", np.frombuffer(json.dumps(state).encode(), dtype=np.uint8)
        ),
    ]


def store_gptq4(name: str, weight: NDArray[np.float64]) -> Stored:
    """Four bits with a scale and a zero point per group of inputs, packed as GPTQ does, rounded to nearest."""
    m, n = weight.shape
    group = 128 if n % 128 == 0 else 64
    groups = weight.reshape(m, n // group, group)
    low, high = np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)
    scales = ((high - low) / 15).astype(np.float16).astype(np.float64)
    zeros = np.rint(-low / scales).clip(0, 15)
    codes = (np.rint(groups / scales[..., None]) + zeros[..., None]).clip(0, 15).reshape(m, n).T.astype(np.uint32)
    places = np.arange(8, dtype=np.uint32) * 4
    words = (codes.reshape(n // 8, 8, m) << places[None, :, None]).sum(axis=1, dtype=np.uint32).view(np.int32)
    stored_zeros = ((zeros.T.astype(np.int64) - 1) % 16).astype(np.uint32)  # the files of the first version
    packed = (stored_zeros.reshape(-1, m // 8, 8) << places).sum(axis=2, dtype=np.uint32).view(np.int32)
    return [
        entry(f"{name}.qweight", words),
        entry(f"{name}.qzeros", packed),
        entry(f"{name}.scales", np.ascontiguousarray(scales.T.astype(np.float16))),
    ]


def write_gguf(folder: Path, weights: Weights, *, kind: str) -> Path:
    """llama.cpp's blocks of 32, by its own Python package."""
    folder.mkdir(parents=True)
    writer = gguf.GGUFWriter(folder / "model.gguf", "none")
    quantisation = gguf.GGMLQuantizationType[kind]
    for name, weight in weights.items():
        blocks = quantize(weight.astype(np.float32), quantisation)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder


FORMATS: Final[Mapping[str, Writer]] = {
    "bf16": partial(write_safetensors, store=partial(store_float, torch.bfloat16, "BF16"), config={}),
    "f16": partial(write_safetensors, store=partial(store_float, torch.float16, "F16"), config={}),
    "fp8, tensor scale": partial(write_safetensors, store=partial(store_fp8, block=None), config={}),
    "fp8, block scales": partial(
        write_safetensors,
        store=partial(store_fp8, block=FP8_BLOCK),
        config={"quant_method": "fp8", "weight_block_size": [FP8_BLOCK, FP8_BLOCK]},
    ),
    "int8, row scales": partial(write_safetensors, store=store_int8, config={"quant_method": "bitsandbytes"}),
    "nf4": partial(write_safetensors, store=store_nf4, config={"quant_method": "bitsandbytes"}),
    "int4, groups": partial(write_safetensors, store=store_gptq4, config={"quant_method": "gptq", "bits": 4}),
    "Q8_0": partial(write_gguf, kind="Q8_0"),
    "Q4_1": partial(write_gguf, kind="Q4_1"),
}
