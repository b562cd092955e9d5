"""Stored bytes to values, chunk by chunk, in the order that the model expects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from oblong.checkpoints.dtypes import FORMATS, UNDECODED, decode_into

if TYPE_CHECKING:
    from oblong.checkpoints.base import Bytes, Floats, TensorInfo


def decode_chunks(tensor: TensorInfo, chunks: Iterator[Bytes], *, keep_16_bit: bool = False) -> Floats:
    """Decode into one array of the tensor's shape, chunk by chunk."""
    storage = FORMATS[tensor.dtype]
    if keep_16_bit:
        storage = UNDECODED.get(tensor.dtype, storage)
    flat: Floats = np.empty(tensor.num_parameters, dtype=storage.decoded)
    start = 0
    for chunk in chunks:
        stop = start + chunk.size // storage.block_bytes * storage.block_values
        decode_into(chunk, storage, flat[start:stop])
        start = stop
    if tensor.interleaved_heads:
        return _unpermute(flat.reshape(tensor.shape), tensor.interleaved_heads)
    return flat.reshape(tensor.shape)


def _unpermute(values: Floats, num_heads: int) -> Floats:
    """Undo llama.cpp's row order: within a head it interleaves the two rotary halves (x0 y0 x1 y1 ...)."""
    rows = values.shape[0]
    paired = values.reshape(num_heads, rows // num_heads // 2, 2, *values.shape[1:])
    return paired.swapaxes(1, 2).reshape(values.shape)
