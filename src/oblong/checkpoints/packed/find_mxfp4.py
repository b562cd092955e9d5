"""MXFP4 as gpt-oss stores it: `X_blocks` (experts, out, in / 32, 16) and `X_scales` (experts, out, in / 32)."""

from __future__ import annotations

from typing import Final

from oblong.checkpoints.base import TensorInfo
from oblong.checkpoints.packed.blocks import MX_BLOCK, Float4Layout
from oblong.checkpoints.packed.lookup import Lookup, fault, make_logical, require_dtype, require_shape

SUFFIX: Final = "_blocks"
METHOD: Final = "mxfp4"


def find_mxfp4(tensor: TensorInfo, lookup: Lookup) -> TensorInfo | None:
    """A stack of experts in MXFP4; the logical weight is (experts, in, out), as transformers holds it."""
    name = tensor.name.removesuffix(SUFFIX)
    if name == tensor.name or tensor.dtype != "U8":
        return None
    if lookup.find(f"{name}_scales") is None and lookup.method != METHOD:
        return None
    scales = lookup.require(tensor, f"{name}_scales")
    require_dtype(scales, "U8")
    if len(tensor.shape) != 4 or tensor.shape[-1] != MX_BLOCK // 2:
        raise fault(tensor, f"its shape is {list(tensor.shape)}, which should end in blocks of {MX_BLOCK // 2} bytes")
    require_shape(tensor, scales, tensor.shape[:-1])
    experts, rows, blocks, _ = tensor.shape
    layout = Float4Layout(dtype="MXFP4", block_size=MX_BLOCK, is_transposed=True)
    return make_logical(tensor, name, (experts, blocks * MX_BLOCK, rows), layout, {"scales": scales})
