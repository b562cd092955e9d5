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

from oblong.checkpoints.packed.bits import compute_step_rms, sum_squares, unpack_bits
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
        grid = Grid(scales=np.ascontiguousarray(companions["scales"].T), zeros=zeros.T)
        values = np.empty(shape, dtype=np.float32)
        start, total = 0, 0.0
        words = self.bits // np.gcd(self.bits, 32)  # the fewest rows of words that hold whole codes
        for chunk in codes.iter_units(int(words) * rows * 4):
            block = unpack_bits(chunk.view("<i4").reshape(-1, rows).T, self.bits)
            stop = start + block.shape[1]
            total += grid.dequantise(block, groups[start:stop], values[:, start:stop])
            start = stop
        return Decoded(values=values, rounding_rms=compute_step_rms(total, values.size))

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
        grid = Grid(scales=np.ascontiguousarray(companions["scales"].T), zeros=_unpack_awq(companions["qzeros"]).T)
        values = np.empty(shape, dtype=np.float32)
        start, total = 0, 0.0
        for chunk in codes.iter_units(rows // 8 * 4):
            block = _unpack_awq(chunk.view("<i4").reshape(-1, rows // 8)).T
            stop = start + block.shape[1]
            total += grid.dequantise(block, groups[start:stop], values[:, start:stop])
            start = stop
        return Decoded(values=values, rounding_rms=compute_step_rms(total, values.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The grids of a matrix: `scales` (out, groups) float32, and `zeros` (out, groups), the codes that mean zero."""

    scales: NDArray[np.float32]
    zeros: NDArray[Any]

    def dequantise(self, codes: NDArray[np.uint8], groups: NDArray[np.intp], into: NDArray[np.float32]) -> float:
        """Write the values of some columns.

        Args:
            codes: (out, c).
            groups: (c,) the group of each column.
            into: (out, c), written.

        Returns:
            The sum of the squared steps of these values.
        """
        steps = self.scales[:, groups]
        np.multiply(codes.astype(np.int16) - self.zeros.astype(np.int16)[:, groups], steps, out=into)
        return sum_squares(steps)


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
