from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oblong.checkpoints import classify_role, split_into_matrices


def split(name: str, values: np.ndarray[Any, Any], config: dict[str, Any] | None = None) -> dict[str | None, Any]:
    """Matrices by part."""
    role = classify_role(name, values.ndim)
    parts = split_into_matrices(name, values.shape, role, config or {})
    return {part.part: part.extract(values) for part in parts}


def numbered(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_a_linear_weight_is_itself_without_a_copy() -> None:
    values = numbered(4, 3)
    (matrix,) = split("model.layers.0.mlp.up_proj.weight", values).values()
    assert matrix.shape == (4, 3)
    assert np.shares_memory(matrix, values)


@pytest.mark.parametrize(("shape", "expected"), [((5,), (1, 5)), ((), (1, 1)), ((1, 7), (1, 7)), ((0, 4), (0, 4))])
def test_vectors_scalars_and_empty_tensors(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    (part,) = split_into_matrices("x.weight", shape, "other", {})
    assert part.matrix_shape == expected


def test_a_convolution_is_out_by_everything_else() -> None:
    values = numbered(6, 4, 3)
    (matrix,) = split("model.encoder.conv1.weight", values).values()
    np.testing.assert_array_equal(matrix, values.reshape(6, 12))


def test_gpt2_stores_in_by_out_so_parts_are_columns() -> None:
    values = numbered(4, 12)
    parts = split("h.0.attn.c_attn.weight", values)
    assert list(parts) == ["q", "k", "v"]
    np.testing.assert_array_equal(parts["k"], values[:, 4:8])


def test_gpt_neox_stores_q_k_v_head_by_head() -> None:
    heads, size, width = 3, 2, 6
    q, k, v = (numbered(heads * size, width) + 1000 * i for i in range(3))
    stacked = [x[h * size : (h + 1) * size] for h in range(heads) for x in (q, k, v)]
    config = {"model_type": "gpt_neox", "num_attention_heads": heads}
    parts = split("gpt_neox.layers.0.attention.query_key_value.weight", np.concatenate(stacked), config)
    for name, expected in zip("qkv", (q, k, v), strict=True):
        np.testing.assert_array_equal(parts[name], expected)


def test_phi3_has_fewer_key_value_heads() -> None:
    values = numbered(4 * 2 + 2 * 2 * 2, 8)
    config = {"num_attention_heads": 4, "num_key_value_heads": 2}
    parts = split("model.layers.0.self_attn.qkv_proj.weight", values, config)
    assert [parts[name].shape for name in "qkv"] == [(8, 8), (4, 8), (4, 8)]
    np.testing.assert_array_equal(np.concatenate([parts[name] for name in "qkv"]), values)


def test_gate_and_up_are_halves() -> None:
    values = numbered(10, 4)
    parts = split("model.layers.0.mlp.gate_up_proj.weight", values)
    np.testing.assert_array_equal(parts["gate"], values[:5])
    np.testing.assert_array_equal(parts["up"], values[5:])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transformer.h.0.self_attention.query_key_value.weight", (12, 4)),  # Falcon: depends on the variant
        ("model.layers.0.self_attn.qkv_proj.weight", (13, 4)),  # does not divide by the heads
        ("layers.0.mlp.Wi.weight", (12, 4)),
    ],
)
def test_an_uncertain_layout_stays_whole_and_says_so(name: str, shape: tuple[int, int]) -> None:
    (part,) = split_into_matrices(name, shape, classify_role(name), {"num_attention_heads": 2})
    assert part.part is None
    assert part.matrix_shape == shape
    assert part.note is not None
    assert "one matrix" in part.note


def test_stacked_experts_give_a_matrix_each() -> None:
    values = numbered(3, 4, 5)
    parts = split("model.layers.0.mlp.experts.down_proj", values)
    assert list(parts) == ["expert.0", "expert.1", "expert.2"]
    np.testing.assert_array_equal(parts["expert.2"], values[2])


@pytest.mark.parametrize(
    ("model_type", "gate", "up"),
    [
        ("gpt_oss", np.s_[:, ::2], np.s_[:, 1::2]),
        ("llama4_text", np.s_[:, :3], np.s_[:, 3:]),
        ("granitemoe", np.s_[:2], np.s_[2:]),
    ],
)
def test_experts_with_fused_gate_and_up(model_type: str, gate: Any, up: Any) -> None:
    values = numbered(2, 4, 6)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    parts = split(name, values, {"model_type": model_type})
    np.testing.assert_array_equal(parts["expert.1.gate"], values[1][gate])
    np.testing.assert_array_equal(parts["expert.1.up"], values[1][up])


def test_a_part_is_the_same_from_the_tensor_and_from_its_slice() -> None:
    values = numbered(2, 4, 6)
    for part in split_into_matrices("mlp.experts.gate_up_proj", (2, 4, 6), "gate_up", {"model_type": "gpt_oss"}):
        expert = part.index[0]
        assert isinstance(expert, int)
        np.testing.assert_array_equal(part.extract_from_slice(values[expert]), part.extract(values))


@pytest.mark.parametrize(
    ("name", "shape", "config"),
    [
        ("h.0.attn.c_attn.weight", (4, 12), {}),
        ("attention.query_key_value.weight", (18, 6), {"model_type": "bloom", "n_head": 3}),
        ("self_attn.qkv_proj.weight", (16, 8), {"num_attention_heads": 4, "num_key_value_heads": 2}),
        ("attn.in_proj_weight", (12, 4), {}),
        ("mlp.experts.gate_up_proj", (2, 4, 6), {"model_type": "gpt_oss"}),
        ("mlp.experts.gate_up_proj", (2, 4, 6), {}),
        ("conv1.weight", (2, 4, 6), {}),
    ],
)
def test_parts_hold_every_element_exactly_once(name: str, shape: tuple[int, ...], config: dict[str, Any]) -> None:
    values = numbered(*shape)
    parts = split(name, values, config)
    elements = np.sort(np.concatenate([matrix.ravel() for matrix in parts.values()]))
    np.testing.assert_array_equal(elements, values.ravel())


@pytest.mark.parametrize("leaf", ["parametrizations.weight.original1", "weight_v"])
def test_the_direction_of_a_normalised_weight_says_so(leaf: str) -> None:
    name = f"encoder.pos_conv_embed.conv.{leaf}"
    (part,) = split_into_matrices(name, (32, 16, 4), classify_role(name, 3), {})
    assert part.matrix_shape == (32, 64)
    assert part.note is not None
    assert "its kappa is not the weight's" in part.note


def test_modernbert_gates_its_mlp() -> None:
    values = numbered(10, 4)
    parts = split("layers.0.mlp.Wi.weight", values, {"model_type": "modernbert"})
    np.testing.assert_array_equal(parts["gate"], values[:5])
