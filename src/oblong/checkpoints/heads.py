"""Fused q, k and v (and DeepSeek's k and v): which rows are whose, family by family.

Each layout is that of the family's forward pass in transformers. It is used only where the configuration settles it
and the shape agrees; the rest stays one matrix with a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from oblong.checkpoints.config import get_count, get_text_config
from oblong.checkpoints.parts import WHOLE, MatrixPart, split_columns, split_rows, take_part, take_whole

Parts: TypeAlias = tuple[MatrixPart, ...]
Shape: TypeAlias = tuple[int, ...]
Layout: TypeAlias = Callable[[Shape, Mapping[str, Any]], Parts | None]

QKV: Final = ("q", "k", "v")
NOTE: Final = "{} are fused in a layout that oblong does not know; measured as one matrix"

# Modules whose fused q, k, v are three equal blocks, one after the other (MPT, ModernBERT, nn.MultiheadAttention).
_EQUAL_THIRDS: Final = re.compile(r"(?:^|\.)(?:in_proj_weight|Wqkv|c_attn)$")


def split_qkv(name: str, shape: Shape, config: Mapping[str, Any]) -> Parts:
    """The parts of a fused q, k, v.

    Args:
        name: the tensor's name.
        shape: (rows, columns) as stored.
        config: the model's configuration.
    """
    module = name.removesuffix(".weight")
    rows, columns = shape
    model_type = str(get_text_config(config).get("model_type"))
    if model_type in _LAYOUTS:
        parts = _LAYOUTS[model_type](shape, config)
    elif module.endswith("c_attn") and columns == 3 * rows:
        parts = split_columns(shape, QKV)  # GPT-2's Conv1D stores in x out.
    elif _EQUAL_THIRDS.search(module) and rows == 3 * columns:
        parts = split_rows(shape, QKV, (columns,) * 3)
    elif module.endswith(("qkv_proj", "attn_qkv")):
        parts = _split_consecutive(shape, config)
    else:
        parts = None
    return parts or (take_whole(shape, "qkv", NOTE.format("q, k and v")),)


def split_kv_b(shape: Shape, role: str, config: Mapping[str, Any]) -> Parts:
    """DeepSeek's kv_b_proj: for each head the rows of k (without its rotary ones, which kv_a_proj makes), then of v.

    Args:
        shape: (heads * (qk_nope_head_dim + v_head_dim), kv_lora_rank).
        role: of the tensor where it stays whole.
        config: the model's configuration.
    """
    rows, columns = shape
    heads = get_count(config, "num_attention_heads")
    k_size, v_size = get_count(config, "qk_nope_head_dim"), get_count(config, "v_head_dim")
    if not (heads and k_size and v_size) or rows != heads * (k_size + v_size):
        return (take_whole(shape, role, NOTE.format("k and v")),)
    view = (heads, k_size + v_size, columns)
    return (
        take_part("k", (heads * k_size, columns), view, (WHOLE, slice(0, k_size))),
        take_part("v", (heads * v_size, columns), view, (WHOLE, slice(k_size, None))),
    )


def _split_consecutive(shape: Shape, config: Mapping[str, Any]) -> Parts | None:
    """All of q, then of k, then of v, perhaps with fewer key-value heads."""
    rows = shape[0]
    heads = get_count(config, "num_attention_heads")
    if heads is None:
        return None
    key_value_heads = get_count(config, "num_key_value_heads") or heads
    if rows % (heads + 2 * key_value_heads):
        return None
    size = rows // (heads + 2 * key_value_heads)
    if size != (_get_head_size(config, heads) or size):
        return None
    return split_rows(shape, QKV, (heads * size, key_value_heads * size, key_value_heads * size))


def _split_per_head(shape: Shape, config: Mapping[str, Any]) -> Parts | None:
    """For each head its q, k and v: (heads, 3, head size, in)."""
    rows, columns = shape
    heads = get_count(config, "num_attention_heads", "n_head")
    if (
        heads is None
        or rows % (3 * heads)
        or rows // (3 * heads) != (_get_head_size(config, heads) or columns // heads)
    ):
        return None
    view = (heads, 3, rows // (3 * heads), columns)
    return tuple(take_part(role, (rows // 3, columns), view, (WHOLE, i)) for i, role in enumerate(QKV))


def _split_grouped(shape: Shape, heads: int, groups: int) -> Parts | None:
    """For each group of heads its q's, one k and one v: (groups, heads / groups + 2, head size, in)."""
    rows, columns = shape
    if heads % groups or rows % (heads + 2 * groups):
        return None
    size = rows // (heads + 2 * groups)
    view = (groups, heads // groups + 2, size, columns)
    return (
        take_part("q", (heads * size, columns), view, (WHOLE, slice(0, -2))),
        take_part("k", (groups * size, columns), view, (WHOLE, -2)),
        take_part("v", (groups * size, columns), view, (WHOLE, -1)),
    )


def _split_multi_query(shape: Shape, heads: int) -> Parts | None:
    """All heads of q, then one k and one v."""
    rows = shape[0]
    if rows % (heads + 2):
        return None
    size = rows // (heads + 2)
    return split_rows(shape, QKV, (heads * size, size, size))


def _split_falcon(shape: Shape, config: Mapping[str, Any]) -> Parts | None:
    """Falcon's three layouts; the configuration must say which."""
    text = get_text_config(config)
    heads = get_count(config, "num_attention_heads", "n_head")
    if heads is None or shape[1] % heads:
        return None
    if text.get("new_decoder_architecture") is True:
        groups = get_count(config, "num_kv_heads")
        parts = _split_grouped(shape, heads, groups) if groups else None
        return parts if parts and parts[0].shape[0] == shape[1] else None
    if text.get("multi_query") is True:
        parts = _split_multi_query(shape, heads)
        return parts if parts and parts[0].shape[0] == shape[1] else None
    return _split_per_head(shape, config) if text.get("multi_query") is False else None


def _split_dbrx(shape: Shape, config: Mapping[str, Any]) -> Parts | None:
    """DBRX: all of q, as many rows as columns, then k and v with the heads of its `attn_config`."""
    rows, columns = shape
    if rows <= columns or (rows - columns) % 2:
        return None
    count = (rows - columns) // 2
    attention = get_text_config(config).get("attn_config")
    groups = get_count(attention, "kv_n_heads") if isinstance(attention, dict) else None
    heads = get_count(config, "n_heads", "num_attention_heads")
    if not (groups and heads) or count != groups * (columns // heads):
        return None
    return split_rows(shape, QKV, (columns, count, count))


def _split_bigcode(shape: Shape, config: Mapping[str, Any]) -> Parts | None:
    """StarCoder's first generation: multi-query, or head by head."""
    heads = get_count(config, "num_attention_heads", "n_head")
    is_multi_query = get_text_config(config).get("multi_query")
    if heads and is_multi_query is True:
        return _split_multi_query(shape, heads)
    return _split_per_head(shape, config) if is_multi_query is False else None


def _split_internlm2(shape: Shape, config: Mapping[str, Any]) -> Parts | None:
    heads, groups = get_count(config, "num_attention_heads"), get_count(config, "num_key_value_heads")
    return _split_grouped(shape, heads, groups) if heads and groups else None


def _refuse(shape: Shape, config: Mapping[str, Any]) -> Parts | None:
    """CodeGen shuffles q, v and k in pieces for four devices."""
    return None


_LAYOUTS: Final[Mapping[str, Layout]] = {
    "gpt_neox": _split_per_head,
    "bloom": _split_per_head,
    "minimax": _split_per_head,
    "falcon": _split_falcon,
    "dbrx": _split_dbrx,
    "gpt_bigcode": _split_bigcode,
    "internlm2": _split_internlm2,
    "codegen": _refuse,
}


def _get_head_size(config: Mapping[str, Any], heads: int) -> int | None:
    declared = get_count(config, "head_dim")
    if declared is not None:
        return declared
    width = get_count(config, "hidden_size", "n_embed", "n_embd")
    return width // heads if width else None
