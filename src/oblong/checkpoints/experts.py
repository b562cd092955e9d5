"""Experts stored as one tensor: one matrix for each expert, and for each of its gate and up where they are fused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from oblong.checkpoints.config import get_count, get_text_config
from oblong.checkpoints.parts import WHOLE, Index, MatrixPart, take_whole

GATE_UP: Final = ("gate", "up")
NOTE: Final = "gate and up are fused in a layout that oblong does not know; one matrix"

# Fused gate and up of one expert: alternating, or the one half and then the other. The dimension that holds both is the
# one that is not the model's width; where that does not tell, it is the first, or the second for architectures in
# _OUTPUTS_SECOND. Source: the modelling code of transformers 5 and, where a release stores it otherwise, that release.
_ALTERNATING: Final = ("gpt_oss",)
_OUTPUTS_SECOND: Final = ("gpt_oss", "llama4", "llama4_text", "aria", "aria_text")
# Releases of both orientations exist: the width must tell.
_EITHER: Final = ("qwen3_vl_moe", "qwen3_vl_moe_text")
_HALVES: Final = (
    *("mixtral", "minimax", "minimax_m2", "phimoe", "jamba", "olmoe", "flex_olmo", "dots1", "afmoe", "lfm2_moe"),
    *("qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_vl_moe", "qwen3_vl_moe_text"),
    *("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm4v_moe_text"),
    *("granitemoe", "granitemoehybrid", "granitemoeshared", "ernie4_5_moe", "hunyuan_v1_moe", "exaone_moe"),
    *("llama4", "llama4_text", "aria", "aria_text", "gemma4", "gemma4_text", "solar_open", "mimo_v2_flash"),
)
# DBRX's three stacks, each (experts * hidden, in): w2 is stored transposed, which leaves kappa alone.
_FLAT_ROLES: Final[Mapping[str, str]] = {"w1": "gate", "v1": "up", "w2": "down"}


def split_experts(shape: tuple[int, ...], role: str, config: Mapping[str, Any]) -> tuple[MatrixPart, ...]:
    """The matrices of a stack.

    Args:
        shape: (experts, rows, columns).
        role: of the tensor.
        config: the model's configuration.
    """
    experts = range(shape[0])
    halves = _find_halves(shape, config) if role == "gate_up" else None
    if halves is None:
        note = NOTE if role == "gate_up" else None
        whole = tuple(_take_expert(shape, expert, role, (), note) for expert in experts)
        return whole or (take_whole(shape, role),)
    pairs = tuple(zip(GATE_UP, halves, strict=True))
    split = tuple(_take_expert(shape, expert, part, index, None) for expert in experts for part, index in pairs)
    return split or (take_whole(shape, role),)


def split_flat_experts(
    leaf: str, shape: tuple[int, ...], role: str, config: Mapping[str, Any]
) -> tuple[MatrixPart, ...]:
    """DBRX's experts, stacked along the rows of a matrix.

    Args:
        leaf: w1, v1 or w2.
        shape: (experts * hidden, in).
        role: of the tensor where it stays whole.
        config: the model's configuration; its `ffn_config` has the number of experts and their hidden size.
    """
    ffn = get_text_config(config).get("ffn_config")
    declared: Mapping[str, Any] = ffn if isinstance(ffn, dict) else {}
    count, hidden = get_count(declared, "moe_num_experts"), get_count(declared, "ffn_hidden_size")
    if not count or not hidden or count * hidden != shape[0]:
        note = "experts are stacked along the rows, and their number is unknown; measured as one matrix"
        return (take_whole(shape, role, note),)
    view = (count, hidden, shape[1])
    return tuple(_take_expert(view, expert, _FLAT_ROLES[leaf], (), None) for expert in range(count))


def _find_halves(shape: tuple[int, ...], config: Mapping[str, Any]) -> tuple[Index, Index] | None:
    """Where gate and up lie in one expert's matrix; None where that is not certain."""
    model_type = str(get_text_config(config).get("model_type"))
    axis = _find_axis(shape, model_type, config)
    if axis is None or shape[axis] % 2:
        return None
    middle = shape[axis] // 2
    if model_type in _ALTERNATING:
        cuts = slice(0, None, 2), slice(1, None, 2)
    elif model_type in _HALVES:
        cuts = slice(0, middle), slice(middle, None)
    else:
        return None
    gate, up = ((cut,) if axis == 1 else (WHOLE, cut) for cut in cuts)
    return gate, up


def _find_axis(shape: tuple[int, ...], model_type: str, config: Mapping[str, Any]) -> int | None:
    """The dimension (1 or 2) of the stack that holds both gate and up."""
    width = get_count(config, "hidden_size")
    if width is not None and (shape[1] == width) != (shape[2] == width):
        return 2 if shape[1] == width else 1
    if model_type in _EITHER:
        return None
    return 2 if model_type in _OUTPUTS_SECOND else 1


def _take_expert(view: tuple[int, ...], expert: int, role: str, index: Index, note: str | None) -> MatrixPart:
    """One expert's matrix; `index` cuts a part out of it."""
    size = _shape_of(index, view[1:])
    part = f"expert.{expert}.{role}" if index else f"expert.{expert}"
    return MatrixPart(part=part, role=role, shape=size, matrix_shape=size, view=view, index=(expert, *index), note=note)


def _shape_of(index: Index, shape: tuple[int, ...]) -> tuple[int, int]:
    """Shape of a matrix of `shape` after basic slicing with `index`."""
    padded = (*index, *(WHOLE for _ in range(2 - len(index))))
    rows, columns = (
        len(range(*part.indices(size))) if isinstance(part, slice) else 1
        for part, size in zip(padded, shape, strict=True)
    )
    return rows, columns
