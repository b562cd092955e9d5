"""GPTQ and AWQ: integer codes with one scale and zero point for each group of input channels and output channel.

GPTQ (Frantar et al. 2023; AutoGPTQ's files) packs along the input, AWQ (Lin et al. 2024; AutoAWQ's GEMM files) along
the output, in an interleaved order. Both store in x out; the logical weight is out x in, as in `nn.Linear`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from oblong.checkpoints.packed.bits import find_largest_rms, unpack_bits
from oblong.checkpoints.packed.packing import Array, Codes, Decoded

AWQ_BITS: Final = 4
# Output channel j of a word of eight lies at its nibble AWQ_PLACES[j]. Source: AutoAWQ's AWQ_REVERSE_ORDER.
AWQ_PLACES: Final = (0, 4, 1, 5, 2, 6, 3, 7)
AWQ_NOTE: Final = (
    "AWQ rescaled its input channels before rounding, so kappa is not the original's even without rounding"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GptqLayout:
    """Codes (in * bits / 32, out) I32; companions qzeros (groups, out * bits / 32), scales (groups, out), g_idx (in).

    The files of the first version store each zero point less one; the sum wraps, so that a zero point of 0 survives.
    Without `g_idx` (act-order) consecutive input channels share a group.
    """

    bits: int
    zero_offset: int
    note: str | None = None

    @property
    def dtype(self) -> str:
        """GPTQ4 for four bits."""
        return f"GPTQ{self.bits}"

    def decode(self, codes: Codes, companions: Mapping[str, Array], shape: tuple[int, ...]) -> Decoded:
        """Dequantise: scale * (code - zero), exact in float32; see `Layout`."""
        rows, columns = shape
        groups = find_groups(columns, len(companions["scales"]), companions.get("g_idx"))
        zeros = (unpack_bits(companions["qzeros"], self.bits) + np.uint8(self.zero_offset)) & np.uint8(self._largest)
        grid = Grid.make(companions["scales"].T, zeros.T)
        values = np.empty(shape, dtype=np.float32)
        start = 0
        words = self.bits // np.gcd(self.bits, 32)  # the fewest rows of words that hold whole codes
        for chunk in codes.iter_units(int(words) * rows * 4):
            block = unpack_bits(chunk.view("<i4").reshape(-1, rows).T, self.bits)
            stop = start + block.shape[1]
            grid.dequantise(block, groups[start:stop], values[:, start:stop])
            start = stop
        return Decoded(values=values, rounding_rms=grid.compute_rounding_rms(groups))

    @property
    def _largest(self) -> int:
        return (1 << self.bits) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AwqLayout:
    """Codes (in, out / 8) I32 of four bits; companions qzeros (groups, out / 8) I32 and scales (groups, out)."""

    dtype: str = "AWQ4"
    note: str | None = AWQ_NOTE

    def decode(self, codes: Codes, companions: Mapping[str, Array], shape: tuple[int, ...]) -> Decoded:
        """Dequantise: scale * (code - zero), exact in float32; see `Layout`."""
        rows, columns = shape
        groups = find_groups(columns, len(companions["scales"]), None)
        grid = Grid.make(companions["scales"].T, _unpack_awq(companions["qzeros"]).T)
        values = np.empty(shape, dtype=np.float32)
        start = 0
        for chunk in codes.iter_units(rows // 8 * 4):
            block = _unpack_awq(chunk.view("<i4").reshape(-1, rows // 8)).T
            stop = start + block.shape[1]
            grid.dequantise(block, groups[start:stop], values[:, start:stop])
            start = stop
        return Decoded(values=values, rounding_rms=grid.compute_rounding_rms(groups))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The grids of a matrix: `scales` and `zeros` (the codes that mean zero), both (out, groups) float32."""

    scales: NDArray[np.float32]
    zeros: NDArray[np.float32]

    @classmethod
    def make(cls, scales: NDArray[np.float32], zeros: NDArray[Any]) -> Grid:
        """From scales and zeros, (out, groups) in any order of memory."""
        return cls(scales=np.ascontiguousarray(scales), zeros=np.ascontiguousarray(zeros, dtype=np.float32))

    def dequantise(self, codes: NDArray[Any], groups: NDArray[np.intp], into: NDArray[np.float32]) -> None:
        """Write the values of some columns; the difference of small integers is exact in float32.

        Args:
            codes: (out, c).
            groups: (c,) the group of each column.
            into: (out, c), written.
        """
        np.subtract(codes, np.take(self.zeros, groups, axis=1), out=into, dtype=np.float32)
        into *= np.take(self.scales, groups, axis=1)

    def cut(self, rows: slice) -> Grid:
        """The grids of some rows."""
        return Grid(scales=self.scales[rows], zeros=self.zeros[rows])

    def compute_rounding_rms(self, groups: NDArray[np.intp]) -> tuple[float, float]:
        """rms(E) of the worst row and column: each weight loses step^2 / 12, the steps being the scales."""
        widths = np.bincount(groups, minlength=self.scales.shape[1])
        used = widths > 0
        variances = np.square(self.scales[:, used], dtype=np.float64) / 12
        return find_largest_rms(variances, widths[used])


def find_groups(num_columns: int, num_groups: int, declared: Array | None) -> NDArray[np.intp]:
    """The group of each input channel, (in,): as declared by `g_idx`, else equal runs.

    Raises:
        ValueError: a group that does not exist.
    """
    if declared is None:
        return np.arange(num_columns, dtype=np.intp) // -(-num_columns // num_groups)
    if declared.size and not 0 <= int(declared.min()) <= int(declared.max()) < num_groups:
        raise ValueError(f"g_idx names a group outside 0 to {num_groups - 1}")
    return declared.astype(np.intp)


def _unpack_awq(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """(r, k) words to (r, 8 k) codes in the order of the output channels."""
    nibbles = unpack_bits(words, AWQ_BITS).reshape(len(words), -1, len(AWQ_PLACES))
    return nibbles[..., AWQ_PLACES].reshape(len(words), -1)
