"""Tied tensors: two names for one set of weights, which must count once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oblong.checkpoints.base import TensorInfo, TensorSource
from oblong.checkpoints.config import get_text_config
from oblong.checkpoints.roles import classify_role


def find_ties(source: TensorSource) -> Mapping[str, str]:
    """Map each tensor that counts as a copy to the one that counts.

    Two tensors are tied when they share their storage, or when one is the output layer and another the input embedding
    of the same shape and dtype, and the configuration ties them (or says nothing, and their bytes are equal).
    """
    return {**_find_shared_storage(source.tensors), **_find_tied_output(source)}


def _find_shared_storage(tensors: Sequence[TensorInfo]) -> dict[str, str]:
    first: dict[tuple[object, ...], str] = {}
    ties: dict[str, str] = {}
    for tensor in tensors:
        if tensor.num_bytes == 0:
            continue
        place = (tensor.file, tensor.offset, tensor.num_bytes, tensor.shape)
        kept = first.setdefault(place, tensor.name)
        if kept != tensor.name:
            ties[tensor.name] = kept
    return ties


def _find_tied_output(source: TensorSource) -> dict[str, str]:
    declared = get_tying(source.config)
    if declared is False:
        return {}
    outputs = _select(source.tensors, "lm_head")
    inputs = _select(source.tensors, "embedding")
    ties = {}
    for output in outputs:
        for embedding in inputs:
            alike = (output.shape, output.dtype) == (embedding.shape, embedding.dtype)
            if alike and (declared or _have_equal_bytes(source, output, embedding)):
                ties[output.name] = embedding.name
                break
    return ties


def get_tying(config: Mapping[str, Any]) -> bool | None:
    """`tie_word_embeddings` of the configuration; None when it does not say (model classes differ in the default)."""
    for part in (config, get_text_config(config)):
        value = part.get("tie_word_embeddings")
        if isinstance(value, bool):
            return value
    return None


def _select(tensors: Sequence[TensorInfo], role: str) -> list[TensorInfo]:
    return [t for t in tensors if len(t.shape) == 2 and classify_role(t.name) == role]


def _have_equal_bytes(source: TensorSource, one: TensorInfo, other: TensorInfo) -> bool:
    chunk_bytes = 4 << 20
    pairs = zip(source.iter_chunks(one, chunk_bytes), source.iter_chunks(other, chunk_bytes), strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in pairs)
