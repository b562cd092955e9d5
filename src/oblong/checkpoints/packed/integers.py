"""Integer weights in rows: bitsandbytes' int8, and compressed-tensors' int-quantized, naive and pack-quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from oblong.checkpoints.packed.bits import find_largest_rms, unpack_padded_words
from oblong.checkpoints.packed.groups import Grid, find_groups
from oblong.checkpoints.packed.packing import Array, Codes, Decoded

# As bitsandbytes multiplies, to the bit: 1 / 127 in decimal.
INVERSE_OF_127: Final = np.float32(7.874015718698502e-3)


@dataclass(frozen=True, slots=True, kw_only=True)
class BnbInt8Layout:
    """bitsandbytes LLM.int8(): codes (out, in) I8 and the row maxima, companion `SCB` (out) float32."""

    dtype: str = "BNB_INT8"
    note: str | None = None

    def decode(self, codes: Codes, companions: Mapping[str, Array], shape: tuple[int, ...]) -> Decoded:
        """Dequantise: code * SCB / 127; see `Layout`."""
        rows, columns = shape
        maxima = companions["SCB"].reshape(rows, 1)
        values = np.empty(shape, dtype=np.float32)
        start = 0
        for chunk in codes.iter_units(columns):
            block = chunk.view(np.int8).reshape(-1, columns)
            stop = start + len(block)
            np.multiply(block * maxima[start:stop], INVERSE_OF_127, out=values[start:stop])
            start = stop
        variances = np.square(maxima * INVERSE_OF_127, dtype=np.float64) / 12
        return Decoded(values=values, rounding_rms=find_largest_rms(variances))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroupsLayout:
    """compressed-tensors: integers in rows with scales (out, groups), or (out) or () for one per row or tensor.

    Codes are I8 (out, in), or I32 (out, ceil(in / p)) with p = 32 // bits codes in a word, offset by 2^(bits - 1).
    Companions: scales; zero_point (out, groups) I8, or packed like the codes but along the first dimension; g_idx (in).
    """

    dtype: str
    bits: int
    is_packed: bool
    note: str | None = None

    def decode(self, codes: Codes, companions: Mapping[str, Array], shape: tuple[int, ...]) -> Decoded:
        """Dequantise: (code - zero point) * scale, exact in float32 for 16-bit scales; see `Layout`."""
        rows, columns = shape
        scales = _expand(companions["scales"], rows)
        grid = Grid.make(scales, self._decode_zeros(companions, rows, scales.shape))
        groups = find_groups(columns, scales.shape[1], companions.get("g_idx"))
        values = np.empty(shape, dtype=np.float32)
        start = 0
        for chunk in codes.iter_units(self._count_row_bytes(columns)):
            block = self._unpack(chunk, columns)
            stop = start + len(block)
            grid.cut(slice(start, stop)).dequantise(block, groups, values[start:stop])
            start = stop
        return Decoded(values=values, rounding_rms=grid.compute_rounding_rms(groups))

    def _count_row_bytes(self, columns: int) -> int:
        return 4 * -(-columns // (32 // self.bits)) if self.is_packed else columns

    def _unpack(self, chunk: NDArray[np.uint8], columns: int) -> NDArray[np.int16]:
        if not self.is_packed:
            return chunk.view(np.int8).reshape(-1, columns).astype(np.int16)
        words = chunk.view("<i4").reshape(-1, self._count_row_bytes(columns) // 4)
        return self._recentre(unpack_padded_words(words, self.bits))[:, :columns]

    def _recentre(self, codes: NDArray[np.uint8]) -> NDArray[np.int16]:
        return codes.astype(np.int16) - np.int16(1 << (self.bits - 1))

    def _decode_zeros(self, companions: Mapping[str, Array], rows: int, shape: tuple[int, ...]) -> NDArray[np.int16]:
        zeros = companions.get("zero_point")
        if zeros is None:
            return np.zeros(shape, dtype=np.int16)
        if self.is_packed and zeros.dtype == np.int32 and zeros.ndim == 2:
            return self._recentre(unpack_padded_words(zeros.T, self.bits)).T[:rows]
        return _expand(zeros.astype(np.int16), rows)


def _expand(array: Array, rows: int) -> Array:
    """One number per tensor, row or group as (out, groups)."""
    if array.size == 1:
        return np.broadcast_to(array.reshape(1, 1), (rows, 1))
    return array.reshape(rows, -1)
