"""Storage formats of weights, and how to decode each with numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Decoder = Callable[[NDArray[np.uint8]], NDArray[np.floating[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFormat:
    """A storage format: `block_values` values lie in `block_bytes` bytes and decode to the dtype `decoded`."""

    name: str
    block_values: int
    block_bytes: int
    decoder: Decoder
    decoded: type[np.floating[Any] | np.uint16] = np.float32


def decode(stored: NDArray[np.uint8], storage: StorageFormat) -> NDArray[np.floating[Any]]:
    """Decode whole blocks of one format.

    Args:
        stored: (b * block_bytes,) uint8, little-endian as in the file.
        storage: a member of `FORMATS`.

    Returns:
        (b * block_values,) float32, or float64 for F64. May share memory with `stored`.
    """
    return storage.decoder(stored)


def decode_into(stored: NDArray[np.uint8], storage: StorageFormat, values: NDArray[np.floating[Any]]) -> None:
    """Decode whole blocks of one format to where they shall be.

    Args:
        stored: (b * block_bytes,) uint8; see `decode`.
        storage: a member of `FORMATS`.
        values: (b * block_values,) of the dtype `storage.decoded`, contiguous; overwritten.
    """
    if storage.decoder is not _decode_bf16:
        values[...] = storage.decoder(stored)
        return
    # Most checkpoints are bfloat16: without a temporary array, in blocks that stay in the cache, this is several times
    # faster.
    codes: NDArray[np.uint16] = stored.view("<u2")
    bits = values.view(np.uint32)
    for start in range(0, bits.size, _CACHED_VALUES):
        block = bits[start : start + _CACHED_VALUES]
        block[...] = codes[start : start + _CACHED_VALUES]
        np.left_shift(block, 16, out=block)


_CACHED_VALUES: Final = 1 << 17


def _decode_bf16(stored: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
    # bfloat16 is the upper half of a float32.
    bits: NDArray[np.uint32] = np.left_shift(stored.view("<u2"), 16, dtype=np.uint32)
    return bits.view(np.float32)


def _decode_e5m2(stored: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
    # E5M2 is the upper half of a float16.
    bits: NDArray[np.uint16] = np.left_shift(stored, 8, dtype=np.uint16)
    return bits.view(np.float16).astype(np.float32)


def _make_e4m3_table() -> NDArray[np.float32]:
    """Value of each of the 256 codes: sign, 4 exponent bits of bias 7, 3 mantissa bits; S.1111.111 is NaN, no infinity.

    Source: Micikevicius et al. 2022, FP8 formats for deep learning, Table 1.
    """
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent, mantissa = (codes >> 3) & 0xF, codes & 0x7
    subnormal = mantissa * 2.0**-9
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    table = sign * np.where(exponent == 0, subnormal, normal)
    table[(codes & 0x7F) == 0x7F] = np.nan
    return table.astype(np.float32)


_E4M3_TABLE: Final = _make_e4m3_table()


def _decode_e4m3(stored: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
    return _E4M3_TABLE[stored]


def _make_ggml_decoder(name: str) -> Decoder:
    def decode_blocks(stored: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        values: NDArray[np.float32] = dequantize(stored, GGMLQuantizationType[name])
        return values

    return decode_blocks


# Values and bytes in a block. Source: ggml's block structures, as listed in gguf.constants.GGML_QUANT_SIZES. Formats of
# less than 2.5 bits are left out: their rounding decides every singular value that matters.
_GGML_BLOCKS: Final[Mapping[str, tuple[int, int]]] = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
    "MXFP4": (32, 17),
}

_PLAIN: Final = (
    StorageFormat(name="F64", block_values=1, block_bytes=8, decoder=lambda x: x.view("<f8"), decoded=np.float64),
    StorageFormat(name="F32", block_values=1, block_bytes=4, decoder=lambda x: x.view("<f4")),
    StorageFormat(name="F16", block_values=1, block_bytes=2, decoder=lambda x: x.view("<f2").astype(np.float32)),
    StorageFormat(name="BF16", block_values=1, block_bytes=2, decoder=_decode_bf16),
    StorageFormat(name="F8_E4M3", block_values=1, block_bytes=1, decoder=_decode_e4m3),
    StorageFormat(name="F8_E5M2", block_values=1, block_bytes=1, decoder=_decode_e5m2),
)

FORMATS: Final[Mapping[str, StorageFormat]] = {storage.name: storage for storage in _PLAIN} | {
    name: StorageFormat(name=name, block_values=values, block_bytes=size, decoder=_make_ggml_decoder(name))
    for name, (values, size) in _GGML_BLOCKS.items()
}


def _keep(name: str, kept: type[np.float16] | type[np.uint16]) -> StorageFormat:
    return StorageFormat(name=name, block_values=1, block_bytes=2, decoder=lambda x: x.view(kept), decoded=kept)


# What an accelerator decodes faster than the host, as it is stored: numpy has no bfloat16, so its bits are integers.
UNDECODED: Final[Mapping[str, StorageFormat]] = {"F16": _keep("F16", np.float16), "BF16": _keep("BF16", np.uint16)}
