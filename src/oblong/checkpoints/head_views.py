"""The per-head view: every head of q, k, v and o as a matrix of its own, beside the matrix that it is a part of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from oblong.checkpoints.config import get_count, get_text_config
from oblong.checkpoints.parts import WHOLE, MatrixPart

ROLES: Final = ("q", "k", "v", "o")
# Their Conv1D stores in x out: the heads of q, k and v are columns, those of o rows.
_IN_BY_OUT: Final = ("gpt2", "openai-gpt")


def split_into_heads(name: str, matrix: MatrixPart, config: Mapping[str, Any]) -> tuple[MatrixPart, ...]:
    """The heads of one matrix; none where the configuration does not settle them.

    Args:
        name: the tensor's name.
        matrix: a matrix of `split_into_matrices`; q, k and v have their heads in the rows, o in the columns.
        config: the model's configuration.
    """
    if matrix.role not in ROLES or len(matrix.matrix_shape) != 2:
        return ()
    heads = _count_heads(name, matrix.role, config)
    is_in_columns = (matrix.role == "o") != (get_text_config(config).get("model_type") in _IN_BY_OUT)
    length = matrix.matrix_shape[1 if is_in_columns else 0]
    if not heads or length % heads or length // heads not in _list_head_sizes(config, heads):
        return ()
    return tuple(_take_head(matrix, head, length // heads, is_in_columns=is_in_columns) for head in range(heads))


def _count_heads(name: str, role: str, config: Mapping[str, Any]) -> int | None:
    side = "decoder" if "decoder" in name else "encoder"
    heads = get_count(config, f"{side}_attention_heads", "num_attention_heads", "n_head", "n_heads", "num_heads")
    if role in ("q", "o") or "kv_b_proj" in name:
        return heads
    return _count_key_value_heads(config) or heads


def _count_key_value_heads(config: Mapping[str, Any]) -> int | None:
    text = get_text_config(config)
    if text.get("model_type") == "falcon":
        grouped = text.get("new_decoder_architecture") is True
        return get_count(config, "num_kv_heads") if grouped else (1 if text.get("multi_query") is True else None)
    attention = text.get("attn_config")
    if isinstance(attention, dict) and (heads := get_count(attention, "kv_n_heads")):
        return heads
    return 1 if text.get("multi_query") is True else get_count(config, "num_key_value_heads")


def _list_head_sizes(config: Mapping[str, Any], heads: int) -> set[int]:
    """Sizes that a head of this model may have; a matrix of another model part has another, and is left alone."""
    q_heads = get_count(config, "encoder_attention_heads", "num_attention_heads", "n_head", "n_heads", "num_heads")
    width = get_count(config, "hidden_size", "d_model", "n_embd", "n_embed")
    parts = [get_count(config, key) for key in ("qk_nope_head_dim", "qk_rope_head_dim")]
    declared = [get_count(config, key) for key in ("head_dim", "qk_head_dim", "qk_nope_head_dim", "v_head_dim", "d_kv")]
    sizes = {size for size in declared if size}
    if parts[0] and parts[1]:
        sizes.add(parts[0] + parts[1])
    return sizes or ({width // (q_heads or heads)} if width else set())


def _take_head(matrix: MatrixPart, head: int, size: int, *, is_in_columns: bool) -> MatrixPart:
    rows, columns = matrix.matrix_shape
    place = slice(head * size, (head + 1) * size)
    shape = (rows, size) if is_in_columns else (size, columns)
    return replace(
        matrix,
        part=f"head.{head}" if matrix.part is None else f"{matrix.part}.head.{head}",
        role=f"{matrix.role}_head",
        shape=shape,
        matrix_shape=shape,
        cut=(WHOLE, place) if is_in_columns else (place,),
        cut_from=matrix.matrix_shape,
    )
