"""bitsandbytes: `X.weight` with `X.weight.absmax`, `.quant_map`, `.quant_state...` (4 bits) or `X.SCB` (int8)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from oblong.checkpoints.base import TensorInfo
from oblong.checkpoints.packed.blocks import Bnb4Layout
from oblong.checkpoints.packed.integers import BnbInt8Layout
from oblong.checkpoints.packed.lookup import Lookup, fault, make_logical, require_dtype, require_shape

QUANT_TYPES: Final = ("nf4", "fp4")
FLOATS: Final = ("F32", "F16", "BF16")
METHOD: Final = "bitsandbytes"


def find_bnb4(tensor: TensorInfo, lookup: Lookup) -> TensorInfo | None:
    """A 4-bit weight: it has an absmax or a state beside it."""
    states = {kind: f"{tensor.name}.quant_state.bitsandbytes__{kind}" for kind in QUANT_TYPES}
    kind = next((kind for kind, name in states.items() if lookup.find(name)), None)
    if kind is None:
        if lookup.find(f"{tensor.name}.absmax") is None:
            return None
        raise fault(tensor, f"its companion {states['nf4']} (or fp4) is missing")
    require_dtype(tensor, "U8", "I8", "BF16", "F16", "F32")  # codes may be stored under any dtype's name
    state_tensor = lookup.find(states[kind])
    assert state_tensor is not None
    state = _read_state(state_tensor, lookup)
    shape = _check_shape(tensor, state_tensor, state)
    layout, companions = _describe_blocks(tensor, lookup, state_tensor, state, kind, math.prod(shape))
    return make_logical(tensor, tensor.name, shape, layout, {**companions, "state": state_tensor})


def _read_state(tensor: TensorInfo, lookup: Lookup) -> Mapping[str, Any]:
    require_dtype(tensor, "U8")
    try:
        state = json.loads(lookup.read_small(tensor).tobytes())
    except (ValueError, RecursionError) as error:
        raise fault(tensor, f"the quantisation state is not valid JSON: {error}") from error
    if not isinstance(state, dict):
        raise fault(tensor, "the quantisation state is not a JSON object")
    return state


def _check_shape(codes: TensorInfo, state_tensor: TensorInfo, state: Mapping[str, Any]) -> tuple[int, ...]:
    """The logical shape, which must be that of as many weights as there are codes."""
    shape = state.get("shape")
    if not isinstance(shape, list) or not shape or not all(_is_count(size) for size in shape):
        raise fault(state_tensor, f"the quantisation state has the shape {shape!r}")
    if -(-math.prod(shape) // 2) != codes.num_bytes:
        reason = f"the quantisation state has the shape {shape}, but {codes.stored_name} holds {2 * codes.num_bytes}"
        raise fault(state_tensor, f"{reason} codes")
    return tuple(shape)


def _describe_blocks(
    codes: TensorInfo, lookup: Lookup, state_tensor: TensorInfo, state: Mapping[str, Any], kind: str, count: int
) -> tuple[Bnb4Layout, dict[str, TensorInfo]]:
    block = _get_block(state_tensor, state, "blocksize")
    companions = {role: lookup.require(codes, f"{codes.name}.{role}") for role in ("quant_map", "absmax")}
    blocks = -(-count // block)
    require_dtype(companions["quant_map"], *FLOATS)
    require_shape(codes, companions["quant_map"], (16,))
    require_shape(codes, companions["absmax"], (blocks,), (blocks, 1))
    if "nested_blocksize" not in state:
        require_dtype(companions["absmax"], *FLOATS)
        return Bnb4Layout(dtype=kind.upper(), block_size=block), companions
    require_dtype(companions["absmax"], "U8")
    nested = _get_block(state_tensor, state, "nested_blocksize")
    for role, size in (("nested_quant_map", 256), ("nested_absmax", -(-blocks // nested))):
        companions[role] = lookup.require(codes, f"{codes.name}.{role}")
        require_dtype(companions[role], *FLOATS)
        require_shape(codes, companions[role], (size,))
    offset = state.get("nested_offset", 0.0)
    if not isinstance(offset, int | float) or not math.isfinite(offset):
        raise fault(state_tensor, f"the quantisation state has the nested_offset {offset!r}")
    layout = Bnb4Layout(dtype=kind.upper(), block_size=block, nested_block_size=nested, nested_offset=float(offset))
    return layout, companions


def _get_block(tensor: TensorInfo, state: Mapping[str, Any], key: str) -> int:
    """A block size: even, because two codes share a byte and no block begins in its middle."""
    size = state.get(key)
    if not _is_count(size) or size % 2 or size > 1 << 20:
        raise fault(tensor, f"the quantisation state has the {key} {size!r}")
    return size


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def find_bnb_int8(tensor: TensorInfo, lookup: Lookup) -> TensorInfo | None:
    """An int8 weight: the maxima of its rows are beside it, or the configuration names bitsandbytes."""
    if tensor.dtype != "I8" or len(tensor.shape) != 2 or not tensor.name.endswith(".weight"):
        return None
    name = f"{tensor.name.removesuffix('.weight')}.SCB"
    if lookup.find(name) is None and lookup.method != METHOD:
        return None
    scales = lookup.require(tensor, name)
    require_dtype(scales, *FLOATS)
    require_shape(tensor, scales, (tensor.shape[0],), (tensor.shape[0], 1))
    return make_logical(tensor, tensor.name, tensor.shape, BnbInt8Layout(), {"SCB": scales})
