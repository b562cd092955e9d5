"""The separate scales of 8-bit floating-point weights: one number per tensor, per row or per block.

A scale per tensor leaves kappa alone, but one per row or block does not: the stored codes without their scales are
not the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from oblong.checkpoints.config import get_quantisation

# DeepSeek-V3 writes weight_scale_inv and multiplies with it, whatever the name says; compressed-tensors, weight_scale.
SCALE_SUFFIXES: Final = ("_scale_inv", "_scale")
SCALED_DTYPES: Final = ("F8_E4M3", "F8_E5M2")
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


def _choose_block(shape: tuple[int, ...], scale: tuple[int, ...], config: Mapping[str, Any]) -> tuple[int, int]:
    declared = get_quantisation(config).get("weight_block_size") or (USUAL_BLOCK, USUAL_BLOCK)
    rows, columns = (
        int(block) if -(-size // int(block)) == count else -(-size // count)
        for size, count, block in zip(shape, scale, declared, strict=True)
    )
    return rows, columns
