"""GPTQ and AWQ: `X.qweight` with `X.qzeros`, `X.scales` and perhaps `X.g_idx`; the shapes tell which of the two."""

from __future__ import annotations

from typing import Final

from oblong.checkpoints.base import TensorInfo
from oblong.checkpoints.packed.groups import AwqLayout, GptqLayout
from oblong.checkpoints.packed.lookup import Lookup, fault, make_logical, require_dtype, require_shape

SUFFIX: Final = ".qweight"
METHODS: Final = ("gptq", "awq", "auto-round", "intel/auto-round", None)
# Other layouts under AWQ's names: they stay undecoded, with a reason.
OTHER_VERSIONS: Final = ("gemv", "gemv_fast", "marlin", "exllama", "ipex")
GPTQ_BITS: Final = (2, 3, 4, 8)
SCALES: Final = ("F16", "BF16", "F32")
AWQ_CODES_IN_A_WORD: Final = 8


def find_gptq(tensor: TensorInfo, lookup: Lookup) -> TensorInfo | None:
    """A GPTQ weight: as many columns as its scales."""
    companions = _find_companions(tensor, lookup)
    if companions is None or _is_awq(tensor, companions["scales"], lookup):
        return None
    words, rows = tensor.shape
    groups = companions["scales"].shape[0]
    g_idx = lookup.find(f"{_module(tensor)}.g_idx")
    bits = _find_bits(tensor, lookup, g_idx)
    columns = words * 32 // bits
    require_shape(tensor, companions["scales"], (groups, rows))
    if not 0 < groups <= columns or rows * bits % 32:
        raise fault(tensor, f"its shape {list(tensor.shape)} does not fit {bits} bits and {groups} groups")
    require_shape(tensor, companions["qzeros"], (groups, rows * bits // 32))
    if g_idx is not None:
        require_dtype(g_idx, "I32", "I64")
        require_shape(tensor, g_idx, (columns,))
        companions["g_idx"] = g_idx
    offset = 0 if lookup.quantisation.get("checkpoint_format") == "gptq_v2" else 1
    layout = GptqLayout(bits=bits, zero_offset=offset)
    return make_logical(tensor, f"{_module(tensor)}.weight", (rows, columns), layout, companions)


def find_awq(tensor: TensorInfo, lookup: Lookup) -> TensorInfo | None:
    """An AWQ weight: eight times as many columns as its codes have words."""
    companions = _find_companions(tensor, lookup)
    if companions is None or not _is_awq(tensor, companions["scales"], lookup):
        return None
    columns, words = tensor.shape
    groups, rows = companions["scales"].shape[0], words * AWQ_CODES_IN_A_WORD
    require_shape(tensor, companions["scales"], (groups, rows))
    require_shape(tensor, companions["qzeros"], (groups, words))
    if not 0 < groups <= columns or columns % groups:
        raise fault(tensor, f"its {columns} input channels do not divide into {groups} groups")
    return make_logical(tensor, f"{_module(tensor)}.weight", (rows, columns), AwqLayout(), companions)


def _module(tensor: TensorInfo) -> str:
    return tensor.name.removesuffix(SUFFIX)


def _find_companions(tensor: TensorInfo, lookup: Lookup) -> dict[str, TensorInfo] | None:
    """The zeros and scales; None where this is no tensor of GPTQ or AWQ codes."""
    other = lookup.quantisation.get("version") in OTHER_VERSIONS
    if not tensor.name.endswith(SUFFIX) or lookup.method not in METHODS or other:
        return None
    require_dtype(tensor, "I32")
    companions = {role: lookup.require(tensor, f"{_module(tensor)}.{role}") for role in ("qzeros", "scales")}
    require_dtype(companions["qzeros"], "I32")
    require_dtype(companions["scales"], *SCALES)
    for part in (tensor, *companions.values()):
        if len(part.shape) != 2 or 0 in part.shape:
            raise fault(part, f"its shape is {list(part.shape)}, but a quantised weight has two dimensions")
    return companions


def _is_awq(tensor: TensorInfo, scales: TensorInfo, lookup: Lookup) -> bool:
    if lookup.method in ("awq", "gptq"):
        return lookup.method == "awq"
    return scales.shape[1] == tensor.shape[1] * AWQ_CODES_IN_A_WORD


def _find_bits(tensor: TensorInfo, lookup: Lookup, g_idx: TensorInfo | None) -> int:
    """Bits per code: from the number of input channels if it is known, else as the configuration says, else four."""
    words = tensor.shape[0]
    declared = lookup.quantisation.get("bits", 4)
    channels = g_idx.shape[0] if g_idx is not None and len(g_idx.shape) == 1 else 0
    bits = words * 32 // channels if channels and words * 32 % channels == 0 else declared
    if bits not in GPTQ_BITS or isinstance(bits, bool) or words * 32 % bits:
        raise fault(tensor, f"its {words} rows of words do not fit {bits!r} bits; GPTQ has 2, 3, 4 or 8")
    return int(bits)
