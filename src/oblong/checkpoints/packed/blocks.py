"""Four-bit codes of a fixed table with one scale per block: bitsandbytes NF4 and FP4, MXFP4 and NVFP4."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from oblong.checkpoints.packed.bits import compute_cell_variance, find_largest_rms, unpack_bits
from oblong.checkpoints.packed.packing import Array, Bytes, Codes, Decoded

# E2M1, by code. Source: OCP Microscaling Formats specification 1.0, section 5.3.3.
FP4_VALUES: Final = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)
MX_BLOCK: Final = 32
NV_BLOCK: Final = 16
E8M0_BIAS: Final = 127
E8M0_NAN: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Bnb4Layout:
    """bitsandbytes: two codes a byte, the first in the upper half; a block of `block_size` weights shares an absmax.

    Companions: quant_map (16) float32, absmax (blocks) float32; or, quantised a second time, absmax (blocks) uint8 with
    nested_quant_map (256) and nested_absmax (nested blocks), and `nested_offset` added.
    """

    dtype: str
    block_size: int
    nested_block_size: int = 0
    nested_offset: float = 0.0
    note: str | None = None

    def decode(self, codes: Codes, companions: Mapping[str, Array], shape: tuple[int, ...]) -> Decoded:
        """Dequantise: quant_map[code] * absmax in float32, without rounding to the model's dtype; see `Layout`."""
        absmax = self._decode_absmax(companions)
        table = companions["quant_map"].astype(np.float32)
        flat = np.empty(math.prod(shape), dtype=np.float32)
        sink = BlockSink(flat=flat, table=table, block_size=self.block_size, is_upper_first=True)
        for chunk in codes.iter_units(self.block_size // 2):
            sink.add(chunk, absmax)
        return Decoded(values=flat.reshape(shape), rounding_rms=sink.compute_rounding_rms(shape))

    def _decode_absmax(self, companions: Mapping[str, Array]) -> NDArray[np.float32]:
        absmax = companions["absmax"].reshape(-1)
        if "nested_absmax" not in companions:
            return absmax.astype(np.float32)
        scales = np.repeat(companions["nested_absmax"].reshape(-1), self.nested_block_size)[: absmax.size]
        decoded: NDArray[np.float32] = companions["nested_quant_map"][absmax] * scales + np.float32(self.nested_offset)
        return decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class Float4Layout:
    """E2M1 codes, two a byte, the first in the lower half, along the last stored dimension.

    Companions: scales, one per block: E8M0 exponents (MXFP4) or float32 (NVFP4, with global_scale to divide by).
    gpt-oss stores (experts, out, in / 32, 16) and transposes: the logical weight is (experts, in, out).
    """

    dtype: str
    block_size: int
    is_transposed: bool
    note: str | None = None

    def decode(self, codes: Codes, companions: Mapping[str, Array], shape: tuple[int, ...]) -> Decoded:
        """Dequantise: value * scale, exact in float32 for MXFP4; see `Layout`."""
        scales = _decode_scales(companions).reshape(-1)
        flat = np.empty(math.prod(shape), dtype=np.float32)
        sink = BlockSink(flat=flat, table=FP4_VALUES, block_size=self.block_size, is_upper_first=False)
        for chunk in codes.iter_units(self.block_size // 2):
            sink.add(chunk, scales)
        stored_shape = (*shape[:-2], shape[-1], shape[-2]) if self.is_transposed else shape
        values = flat.reshape(stored_shape)
        row, column = sink.compute_rounding_rms(stored_shape)
        if self.is_transposed:
            return Decoded(values=values.swapaxes(-1, -2), rounding_rms=(column, row))
        return Decoded(values=values, rounding_rms=(row, column))


class BlockSink:
    """Decodes consecutive bytes of two codes into `flat`, and adds up what rounding to `table` took away."""

    def __init__(
        self, *, flat: NDArray[np.float32], table: NDArray[np.float32], block_size: int, is_upper_first: bool
    ) -> None:
        codes = unpack_bits(np.arange(256, dtype=np.uint8), 4).reshape(256, 2)
        codes = codes[:, ::-1] if is_upper_first else codes
        self._flat = flat
        self._pairs = table[codes]
        self._variances = compute_cell_variance(table)[codes].sum(axis=1)
        self._block_size = block_size
        self._start = 0
        self._block_sums: list[NDArray[np.float64]] = []

    def add(self, stored: Bytes, scales: NDArray[np.float32]) -> None:
        """Decode the next bytes (b,), which begin with a block; `scales` are those of the whole tensor."""
        size = self._block_size // 2
        blocks = np.pad(stored, (0, -stored.size % size)).reshape(-1, size)
        first = self._start // (2 * size)
        factors = scales[first : first + len(blocks)]
        values = self._pairs[blocks].reshape(len(blocks), 2 * size)
        values *= factors[:, None]
        stop = min(self._start + 2 * stored.size, self._flat.size)
        self._flat[self._start : stop] = values.reshape(-1)[: stop - self._start]
        variances = self._variances[blocks]
        variances.reshape(-1)[stored.size :] = 0
        self._block_sums.append(variances.sum(axis=1) * np.square(factors, dtype=np.float64))
        self._start = stop

    def compute_rounding_rms(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """rms(E) of the worst row and column of values of this shape; of all of them where blocks straddle rows."""
        if not self._flat.size:
            return 0.0, 0.0
        sums = np.concatenate(self._block_sums)
        if len(shape) < 2 or shape[-1] % self._block_size:
            overall = math.sqrt(float(sums.sum()) / self._flat.size)
            return overall, overall
        return find_largest_rms(sums.reshape(*shape[:-1], -1) / self._block_size)


def _decode_scales(companions: Mapping[str, Array]) -> NDArray[np.float32]:
    scales = companions["scales"]
    if scales.dtype != np.uint8:
        divisor = companions["global_scale"].reshape(-1)[0] if "global_scale" in companions else np.float32(1)
        return np.asarray(scales / divisor, dtype=np.float32)
    powers: NDArray[np.float32] = np.ldexp(np.float64(1), scales.astype(np.int64) - E8M0_BIAS).astype(np.float32)
    powers[scales == E8M0_NAN] = np.nan
    return powers
