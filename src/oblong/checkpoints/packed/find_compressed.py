"""compressed-tensors: `X.weight_packed` or an int8 `X.weight`, with `X.weight_scale` and perhaps zero points, g_idx.

Its floating-point formats (float-quantized, naive-quantized with fp8) are ordinary fp8 tensors with scales.
"""

from __future__ import annotations

from typing import Any, Final

from oblong.checkpoints.base import TensorInfo
from oblong.checkpoints.packed.blocks import MX_BLOCK, NV_BLOCK, Float4Layout
from oblong.checkpoints.packed.integers import RowGroupsLayout
from oblong.checkpoints.packed.lookup import Lookup, fault, make_logical, require_dtype, require_shape

SCALES: Final = ("F16", "BF16", "F32")
BITS: Final = (4, 8, 2, 3, 5, 6, 7)


def find_compressed(tensor: TensorInfo, lookup: Lookup) -> TensorInfo | None:
    """A weight in one of the packed or integer formats."""
    module, _, leaf = tensor.name.rpartition(".")
    if leaf == "weight_packed" and tensor.dtype == "U8":
        return _find_float4(tensor, module, lookup)
    if leaf == "weight_packed":
        return _find_packed(tensor, module, lookup)
    if (
        leaf == "weight"
        and tensor.dtype == "I8"
        and len(tensor.shape) == 2
        and f"{tensor.name}_scale" in lookup.tensors
    ):
        return _make_rows(tensor, module, lookup, tensor.shape, bits=8, is_packed=False)
    return None


def _find_packed(tensor: TensorInfo, module: str, lookup: Lookup) -> TensorInfo:
    require_dtype(tensor, "I32")
    declared = lookup.require(tensor, f"{module}.weight_shape")
    require_dtype(declared, "I64", "I32")
    require_shape(tensor, declared, (2,))
    rows, columns = (int(size) for size in lookup.read_small(declared))
    if len(tensor.shape) != 2 or tensor.shape[0] != rows or columns <= 0 or rows <= 0:
        raise fault(declared, f"it says {[rows, columns]}, but {tensor.stored_name} is {list(tensor.shape)}")
    bits = _find_bits(tensor, columns, lookup)
    return _make_rows(tensor, module, lookup, (rows, columns), bits=bits, is_packed=True)


def _find_bits(tensor: TensorInfo, columns: int, lookup: Lookup) -> int:
    """The declared bits if they fit the shape, else those that do; the usual ones first."""
    fitting = [bits for bits in BITS if -(-columns // (32 // bits)) == tensor.shape[1]]
    groups = lookup.quantisation.get("config_groups")
    declared = {_get_bits(group) for group in groups.values()} if isinstance(groups, dict) else set()
    preferred = [bits for bits in fitting if bits in declared] or fitting
    if not preferred:
        raise fault(tensor, f"its shape is {list(tensor.shape)}, which fits {columns} columns at no number of bits")
    return preferred[0]


def _get_bits(group: Any) -> Any:
    weights = group.get("weights") if isinstance(group, dict) else None
    return weights.get("num_bits") if isinstance(weights, dict) else None


def _make_rows(
    tensor: TensorInfo, module: str, lookup: Lookup, shape: tuple[int, ...], *, bits: int, is_packed: bool
) -> TensorInfo:
    rows, columns = shape
    scales = lookup.require(tensor, f"{module}.weight_scale")
    require_dtype(scales, *SCALES)
    groups = scales.shape[1] if len(scales.shape) == 2 else 1
    if not 0 < groups <= columns:
        raise fault(scales, f"it has {groups} groups for {columns} columns")
    require_shape(tensor, scales, (rows, groups), (rows,), (1,), (1, 1), ())
    companions = {"scales": scales}
    zero_point = lookup.find(f"{module}.weight_zero_point")
    if zero_point is not None:
        _check_zero_point(tensor, zero_point, scales, rows, bits if is_packed else None)
        companions["zero_point"] = zero_point
    g_idx = lookup.find(f"{module}.weight_g_idx")
    if g_idx is not None:
        require_dtype(g_idx, "I32", "I64")
        require_shape(tensor, g_idx, (columns,))
        companions["g_idx"] = g_idx
    layout = RowGroupsLayout(dtype=f"{'CT_PACKED' if is_packed else 'CT_INT'}{bits}", bits=bits, is_packed=is_packed)
    return make_logical(tensor, f"{module}.weight", shape, layout, companions)


def _check_zero_point(
    codes: TensorInfo, zero_point: TensorInfo, scales: TensorInfo, rows: int, packed_bits: int | None
) -> None:
    """As the scales, or packed along the rows."""
    if packed_bits is not None and zero_point.dtype == "I32":
        groups = scales.shape[1] if len(scales.shape) == 2 else 1
        require_shape(codes, zero_point, (-(-rows // (32 // packed_bits)), groups))
        return
    require_dtype(zero_point, "I8")
    require_shape(codes, zero_point, scales.shape)


def _find_float4(tensor: TensorInfo, module: str, lookup: Lookup) -> TensorInfo:
    """NVFP4 (E4M3 scales for 16 weights, divided by a global scale) or MXFP4 (exponents for 32)."""
    scales = lookup.require(tensor, f"{module}.weight_scale")
    require_dtype(scales, "F8_E4M3", "U8")
    if len(tensor.shape) != 2:
        raise fault(tensor, f"its shape is {list(tensor.shape)}, but a quantised weight has two dimensions")
    is_nv = scales.dtype == "F8_E4M3"
    block, label = (NV_BLOCK, "NVFP4") if is_nv else (MX_BLOCK, "MXFP4")
    rows, columns = tensor.shape[0], 2 * tensor.shape[1]
    if columns % block:
        raise fault(tensor, f"its {columns} columns are no whole blocks of {block}")
    require_shape(tensor, scales, (rows, columns // block))
    companions = {"scales": scales}
    if is_nv:
        companions["global_scale"] = lookup.require(tensor, f"{module}.weight_global_scale")
        require_dtype(companions["global_scale"], "F32")
        require_shape(tensor, companions["global_scale"], (1,), ())
    layout = Float4Layout(dtype=label, block_size=block, is_transposed=False)
    return make_logical(tensor, f"{module}.weight", (rows, columns), layout, companions)
