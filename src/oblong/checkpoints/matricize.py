"""From a stored tensor to the matrices in it.

A convolution is out x (in * kernel); a fused q, k, v or gate, up is split where the layout is certain; stacked experts
give one matrix each. A layout that is not certain stays one matrix, with a note that says so: nothing is dropped and
nothing is guessed silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from oblong.checkpoints.config import get_text_config
from oblong.checkpoints.experts import split_experts, split_flat_experts
from oblong.checkpoints.heads import split_kv_b, split_qkv
from oblong.checkpoints.parts import MatrixPart, split_rows, take_whole

__all__ = ["MatrixPart", "split_into_matrices"]

GATE_UP: Final = ("gate", "up")
_EXPERTS: Final = re.compile(r"expert|_exps\b|block_sparse_moe\.(?:input|output)_linear")
_FLAT_EXPERTS: Final = re.compile(r"experts\.mlp\.(w1|v1|w2)$")
# The direction of torch's weight_norm, in its old and new names (wav2vec 2.0's position convolution).
_WEIGHT_NORM: Final = re.compile(r"weight_v$|parametrizations\.weight\.original1$")
WEIGHT_NORM_NOTE: Final = (
    "the direction of a normalised weight: the model scales its slices, so its kappa is not the weight's"
)
# Architectures whose Wi is gate | up: ModernBERT applies its activation to the first half.
_GATED_WI: Final = ("modernbert", "modernbert-decoder")


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
        return split_experts(shape, role, config)
    if len(shape) == 2 and (match := _FLAT_EXPERTS.search(name)):
        return split_flat_experts(match[1], shape, role, config)
    if len(shape) == 2 and role == "qkv":
        return split_qkv(name, shape, config)
    if len(shape) == 2 and name.endswith("kv_b_proj.weight"):
        return split_kv_b(shape, role, config)
    if len(shape) == 2 and role == "gate_up":
        return _split_gate_up(name, shape, config)
    return (take_whole(shape, role, WEIGHT_NORM_NOTE if _WEIGHT_NORM.search(name) else None),)


def _split_gate_up(name: str, shape: tuple[int, ...], config: Mapping[str, Any]) -> tuple[MatrixPart, ...]:
    rows = shape[0]
    module = name.removesuffix(".weight")
    is_gated = module.endswith(".Wi") and get_text_config(config).get("model_type") in _GATED_WI
    if (is_gated or module.endswith("gate_up_proj")) and rows % 2 == 0:
        return split_rows(shape, GATE_UP, (rows // 2,) * 2)
    return (take_whole(shape, "gate_up", "gate and up are fused in a layout that oblong does not know; one matrix"),)
