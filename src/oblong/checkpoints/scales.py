"""The separate scales of 8-bit floating-point weights: one number per tensor, per row or per block.

A scale per tensor leaves kappa alone, but one per row or block does not: the stored codes without their scales are
not the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from oblong.checkpoints.config import get_quantisation
from oblong.errors import CorruptCheckpointError

if TYPE_CHECKING:
    from oblong.checkpoints.base import TensorInfo

# DeepSeek-V3 writes weight_scale_inv and multiplies with it, whatever the name says; compressed-tensors, weight_scale.
SCALE_SUFFIXES: Final = ("_scale_inv", "_scale")
SCALED_DTYPES: Final = ("F8_E4M3", "F8_E5M2")
SCALE_DTYPES: Final = ("F32", "F16", "BF16", "F64")
USUAL_BLOCK: Final = 128

T = TypeVar("T")


def find_scale(name: str, tensors: Mapping[str, T]) -> T | None:
    """The tensor that holds the scales of the 8-bit tensor `name`, or None."""
    return next((tensors[name + suffix] for suffix in SCALE_SUFFIXES if name + suffix in tensors), None)


def apply_scale(values: NDArray[np.floating[Any]], scale: NDArray[np.floating[Any]], config: Mapping[str, Any]) -> None:
    """Multiply in place by a scale for the whole tensor, for each row, or for each block.

    Args:
        values: (m, n) or (experts, m, n), or any shape when `scale` has one element.
        scale: one element, (m,), (m, 1) or (ceil(m / rows of a block), ceil(n / columns of a block)), one for each
            expert in the first dimension where `values` has three.
        config: the model's configuration; its `quantization_config.weight_block_size` gives the block.
    """
    if scale.size == 1:
        values *= scale.reshape(())
        return
    if values.ndim == 3 and len(scale) == len(values):
        for expert, factors in zip(values, scale, strict=True):
            apply_scale(expert, factors, config)
        return
    scale = scale.reshape(-1, 1) if scale.ndim == 1 else scale
    block_rows, block_columns = _choose_block(values.shape, scale.shape, config)
    for index, factors in enumerate(scale):
        rows = slice(index * block_rows, (index + 1) * block_rows)
        values[rows] *= np.repeat(factors, block_columns)[: values.shape[1]]


def check_scales(tensors: Sequence[TensorInfo], config: Mapping[str, Any]) -> None:
    """Make sure that the scales of every 8-bit tensor are numbers that fit it, before anything is measured.

    Raises:
        CorruptCheckpointError: scales of a wrong dtype or shape; they and their file are named.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    for codes in tensors:
        scale = find_scale(codes.name, by_name) if codes.dtype in SCALED_DTYPES else None
        if scale is None:
            continue
        if scale.dtype not in SCALE_DTYPES:
            raise _fault(scale, f"it is {scale.dtype}, but scales are read as {' or '.join(SCALE_DTYPES)}")
        if not _fits(codes.shape, scale.shape, config):
            reason = f"its shape is {list(scale.shape)}, but {codes.stored_name} {list(codes.shape)} needs one number"
            raise _fault(scale, f"{reason}, one per row or one per block")


def _fault(scale: TensorInfo, reason: str) -> CorruptCheckpointError:
    advice = "fetch the model again, or scan the original that was quantised"
    return CorruptCheckpointError(scale.file, f"tensor {scale.stored_name}: {reason}", advice=advice)


def _fits(shape: tuple[int, ...], scale: tuple[int, ...], config: Mapping[str, Any]) -> bool:
    """Whether `apply_scale` can multiply a tensor of `shape` by scales of the shape `scale`."""
    if math.prod(scale) == 1 or math.prod(shape) == 0:
        return True
    if len(shape) == 3 and scale and scale[0] == shape[0]:
        return _fits(shape[1:], scale[1:], config)
    if len(scale) == 1:
        return len(shape) == 2 and scale == shape[:1]
    if len(shape) != 2 or len(scale) != 2 or 0 in scale:
        return False
    blocks = _choose_block(shape, scale, config)
    return all(-(-size // block) == count for size, count, block in zip(shape, scale, blocks, strict=True))


def _choose_block(shape: tuple[int, ...], scale: tuple[int, ...], config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of a block: as declared where that gives as many blocks as there are, else of equal size."""
    rows, columns = (
        min(block, size) if -(-size // block) == count else -(-size // count)
        for size, count, block in zip(shape, scale, _get_declared_block(config), strict=True)
    )
    return rows, columns


def _get_declared_block(config: Mapping[str, Any]) -> tuple[int, int]:
    """`weight_block_size`; the usual one where the configuration has none that can be."""
    match get_quantisation(config).get("weight_block_size"):
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
    return USUAL_BLOCK, USUAL_BLOCK
