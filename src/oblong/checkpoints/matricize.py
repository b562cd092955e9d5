"""From a stored tensor to the matrices in it.

A convolution is out x (in * kernel); a fused q, k, v or gate, up is split where the layout is certain; stacked experts
give one matrix each. A layout that is not certain stays one matrix, with a note that says so: nothing is dropped and
nothing is guessed silently.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from oblong.checkpoints.config import get_count, get_text_config

Index = tuple[int | slice, ...]

QKV: Final = ("q", "k", "v")
GATE_UP: Final = ("gate", "up")
WHOLE: Final = slice(None)

# Modules whose fused q, k, v are three equal blocks, one after the other.
_EQUAL_THIRDS: Final = re.compile(r"(?:^|\.)(?:in_proj_weight|Wqkv|c_attn)$")
# Architectures that store q, k, v head by head: (heads, 3, head size, in).
_PER_HEAD_THIRDS: Final = ("gpt_neox", "bloom")
_EXPERTS: Final = re.compile(r"expert|_exps\b|block_sparse_moe\.(?:input|output)_linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixPart:
    """One matrix inside a stored tensor: `tensor.reshape(view)[index].reshape(matrix_shape)`.

    `part` is None when it is the whole tensor. `shape` is the part's own, before it becomes a matrix.
    """

    part: str | None
    role: str
    shape: tuple[int, ...]
    matrix_shape: tuple[int, int]
    view: tuple[int, ...]
    index: Index = ()
    note: str | None = None

    def extract(self, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The matrix: a view of `values` (the whole tensor) where strides allow, else a copy of this part."""
        return values.reshape(self.view)[self.index].reshape(self.matrix_shape)

    def extract_from_slice(self, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The same matrix from the slice along the first dimension that holds it (one expert of a stack)."""
        return values[self.index[1:]].reshape(self.matrix_shape)


def split_into_matrices(
    name: str, shape: tuple[int, ...], role: str, config: Mapping[str, Any]
) -> tuple[MatrixPart, ...]:
    """List the matrices of one tensor; never empty.

    Args:
        name: the tensor's name.
        shape: of the whole tensor, as stored.
        role: see `classify_role`.
        config: the model's configuration; decides head counts and the layout of fused tensors.
    """
    if len(shape) == 3 and _EXPERTS.search(name):
        return _split_experts(shape, role, config)
    if len(shape) == 2 and role == "qkv":
        return _split_qkv(name, shape, config)
    if len(shape) == 2 and role == "gate_up":
        return _split_gate_up(name, shape)
    return (_whole(shape, role),)


def _whole(shape: tuple[int, ...], role: str, note: str | None = None) -> MatrixPart:
    """The tensor as one matrix: vectors as 1 x n, more than two dimensions as first x rest."""
    rows = shape[0] if len(shape) >= 2 else 1
    if len(shape) > 2 and role != "conv":
        note = note or f"of unknown layout; taken as {rows} x {math.prod(shape[1:])}"
    columns = math.prod(shape[1:]) if len(shape) >= 2 else math.prod(shape)
    return MatrixPart(part=None, role=role, shape=shape, matrix_shape=(rows, columns), view=shape, note=note)


def _split_rows(shape: tuple[int, ...], roles: Sequence[str], counts: Sequence[int]) -> tuple[MatrixPart, ...]:
    """Consecutive blocks of rows."""
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return tuple(
        MatrixPart(
            part=role,
            role=role,
            shape=(count, shape[1]),
            matrix_shape=(count, shape[1]),
            view=shape,
            index=(slice(start, start + count),),
        )
        for role, start, count in zip(roles, starts, counts, strict=True)
    )


def _split_qkv(name: str, shape: tuple[int, ...], config: Mapping[str, Any]) -> tuple[MatrixPart, ...]:
    module = name.removesuffix(".weight")
    rows, columns = shape
    if module.endswith("c_attn") and columns == 3 * rows:
        # GPT-2's Conv1D stores in x out.
        return tuple(_columns(shape, role, i * rows, rows) for i, role in enumerate(QKV))
    if get_text_config(config).get("model_type") in _PER_HEAD_THIRDS:
        return _split_per_head(shape, config)
    if _EQUAL_THIRDS.search(module) and rows == 3 * columns:
        return _split_rows(shape, QKV, (columns,) * 3)
    counts = _count_rows_of_heads(rows, config)
    if counts and module.endswith(("qkv_proj", "attn_qkv")):
        return _split_rows(shape, QKV, counts)
    return (_whole(shape, "qkv", "q, k and v are fused in a layout that oblong does not know; measured as one matrix"),)


def _columns(shape: tuple[int, ...], role: str, start: int, count: int) -> MatrixPart:
    return MatrixPart(
        part=role,
        role=role,
        shape=(shape[0], count),
        matrix_shape=(shape[0], count),
        view=shape,
        index=(WHOLE, slice(start, start + count)),
    )


def _split_per_head(shape: tuple[int, ...], config: Mapping[str, Any]) -> tuple[MatrixPart, ...]:
    rows, columns = shape
    heads = get_count(config, "num_attention_heads", "n_head")
    if heads is None or rows % (3 * heads):
        return (
            _whole(shape, "qkv", "q, k and v are fused and the number of heads is unknown; measured as one matrix"),
        )
    view = (heads, 3, rows // (3 * heads), columns)
    part_shape = (rows // 3, columns)
    return tuple(
        MatrixPart(part=role, role=role, shape=part_shape, matrix_shape=part_shape, view=view, index=(WHOLE, i))
        for i, role in enumerate(QKV)
    )


def _count_rows_of_heads(rows: int, config: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Rows of q, k and v in a fused q | k | v with fewer key-value heads; None when the configuration does not fit."""
    heads = get_count(config, "num_attention_heads")
    if heads is None:
        return None
    key_value_heads = get_count(config, "num_key_value_heads") or heads
    if rows % (heads + 2 * key_value_heads):
        return None
    head_size = rows // (heads + 2 * key_value_heads)
    return heads * head_size, key_value_heads * head_size, key_value_heads * head_size


def _split_gate_up(name: str, shape: tuple[int, ...]) -> tuple[MatrixPart, ...]:
    rows = shape[0]
    if name.removesuffix(".weight").endswith("gate_up_proj") and rows % 2 == 0:
        return _split_rows(shape, GATE_UP, (rows // 2,) * 2)
    return (_whole(shape, "gate_up", "gate and up are fused in a layout that oblong does not know; one matrix"),)


# How one expert's fused gate and up lie in its (a, b) matrix, by architecture.
_GATE_UP_OF_EXPERT: Final[Mapping[str, Callable[[int, int], tuple[Index, Index]]]] = {
    # (in, 2 * hidden), gate and up in alternating columns
    "gpt_oss": lambda a, b: ((WHOLE, slice(0, None, 2)), (WHOLE, slice(1, None, 2))),
    # (in, 2 * hidden), gate then up
    "llama4": lambda a, b: ((WHOLE, slice(0, b // 2)), (WHOLE, slice(b // 2, None))),
    "llama4_text": lambda a, b: ((WHOLE, slice(0, b // 2)), (WHOLE, slice(b // 2, None))),
    # (2 * hidden, in), gate then up
    "granitemoe": lambda a, b: ((slice(0, a // 2),), (slice(a // 2, None),)),
}


def _split_experts(shape: tuple[int, ...], role: str, config: Mapping[str, Any]) -> tuple[MatrixPart, ...]:
    experts, rows, columns = shape
    layout = _GATE_UP_OF_EXPERT.get(str(get_text_config(config).get("model_type"))) if role == "gate_up" else None
    note = "gate and up are fused in a layout that oblong does not know; one matrix" if role == "gate_up" else None
    parts: list[MatrixPart] = []
    for expert in range(experts):
        if layout is None:
            parts.append(_expert(shape, f"expert.{expert}", role, (expert,), (rows, columns), note))
            continue
        for part_role, index in zip(GATE_UP, layout(rows, columns), strict=True):
            size = _shape_of(index, (rows, columns))
            parts.append(_expert(shape, f"expert.{expert}.{part_role}", part_role, (expert, *index), size, None))
    return tuple(parts) or (_whole(shape, role),)


def _expert(
    shape: tuple[int, ...], part: str, role: str, index: Index, size: tuple[int, int], note: str | None
) -> MatrixPart:
    return MatrixPart(part=part, role=role, shape=size, matrix_shape=size, view=shape, index=index, note=note)


def _shape_of(index: Index, shape: tuple[int, int]) -> tuple[int, int]:
    """Shape of a matrix of `shape` after basic slicing with `index`."""
    padded = (*index, *(WHOLE for _ in range(2 - len(index))))
    rows, columns = (
        len(range(*part.indices(size))) if isinstance(part, slice) else 1
        for part, size in zip(padded, shape, strict=True)
    )
    return rows, columns
