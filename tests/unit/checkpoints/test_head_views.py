from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oblong import scan
from oblong.checkpoints import classify_role, split_into_heads, split_into_matrices
from oblong.planning import plan
from oblong.records import HEAD_ROLES, Status
from tests.checkpoint_builders import LLAMA_CONFIG, llama_tensors, write_model
from tests.tolerances import SCAN_AGAINST_SVD

GROUPED = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}


def list_heads(name: str, values: np.ndarray[Any, Any], config: dict[str, Any]) -> dict[str | None, Any]:
    """Every matrix and every head of it."""
    role = classify_role(name, values.ndim)
    matrices = split_into_matrices(name, values.shape, role, config)
    heads = [head for matrix in matrices for head in split_into_heads(name, matrix, config)]
    return {part.part: part.extract(values) for part in (*matrices, *heads)}


def numbered(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("name", "rows", "heads", "axis"),
    [("q_proj", 32, 4, 0), ("k_proj", 16, 2, 0), ("v_proj", 16, 2, 0), ("o_proj", 32, 4, 1)],
)
def test_heads_are_rows_of_q_k_v_and_columns_of_o(name: str, rows: int, heads: int, axis: int) -> None:
    values = numbered(rows, 32)
    parts = list_heads(f"model.layers.0.self_attn.{name}.weight", values, GROUPED)
    assert list(parts) == [None, *(f"head.{head}" for head in range(heads))]
    for head, expected in enumerate(np.split(values, heads, axis=axis)):
        np.testing.assert_array_equal(parts[f"head.{head}"], expected)


def test_heads_of_gpt2_are_columns_of_q_and_rows_of_o() -> None:
    config = {"model_type": "gpt2", "n_head": 4, "n_embd": 32}
    fused, output = numbered(32, 96), numbered(32, 32)
    parts = list_heads("h.0.attn.c_attn.weight", fused, config)
    np.testing.assert_array_equal(parts["k.head.3"], fused[:, 56:64])
    np.testing.assert_array_equal(list_heads("h.0.attn.c_proj.weight", output, config)["head.1"], output[8:16])


@pytest.mark.parametrize(
    ("config", "key_value_heads"),
    [
        ({"model_type": "bloom", "n_head": 4, "hidden_size": 32}, 4),
        ({"model_type": "falcon", **GROUPED, "num_kv_heads": 2, "new_decoder_architecture": True}, 2),
        ({"model_type": "falcon", **GROUPED, "multi_query": True, "new_decoder_architecture": False}, 1),
    ],
)
def test_heads_of_a_fused_tensor_are_those_of_its_parts(config: dict[str, Any], key_value_heads: int) -> None:
    values = numbered(32 + 2 * 8 * key_value_heads, 32)
    parts = list_heads("h.0.self_attention.query_key_value.weight", values, config)
    for role, heads in (("q", 4), ("k", key_value_heads), ("v", key_value_heads)):
        views = [parts.pop(f"{role}.head.{head}") for head in range(heads)]
        np.testing.assert_array_equal(np.concatenate(views), parts.pop(role))
    assert not parts


@pytest.mark.parametrize(
    ("name", "shape", "config"),
    [
        ("layers.0.self_attn.q_proj.weight", (32, 32), {}),
        ("visual.blocks.0.attn.q_proj.weight", (80, 80), GROUPED),  # another width than the configured one
        ("layers.0.self_attn.q_a_proj.weight", (20, 32), GROUPED),
        ("layers.0.mlp.up_proj.weight", (32, 32), GROUPED),
    ],
)
def test_what_is_not_settled_has_no_heads(name: str, shape: tuple[int, int], config: dict[str, Any]) -> None:
    assert list(list_heads(name, numbered(*shape), config)) == [None]


def test_a_scan_measures_them_beside_the_matrix_and_no_plan_chooses_them(tmp_path: Path) -> None:
    tensors = llama_tensors()
    model = str(write_model(tmp_path / "m", tensors))
    result, plain = scan(model, heads=True), scan(model)
    assert [unit for unit in result if "head." not in (unit.part or "")] == [
        unit.model_copy(update={"seconds": result[unit.name].seconds}) for unit in plain
    ]
    name = "model.layers.1.self_attn.o_proj.weight"
    values = np.linalg.svd(tensors[name][:, 8:12].astype(np.float64), compute_uv=False)
    unit = result[f"{name}[head.2]"]
    assert unit.status is Status.OK
    assert unit.measures is not None
    assert unit.measures.kappa == pytest.approx(values[0] / values[-1], rel=SCAN_AGAINST_SVD)
    assert unit.role == "o_head"
    assert (unit.tensor, unit.digest) == (name, result[name].digest)
    assert {u.role for u in result.eligible} == {u.role for u in plain.eligible}
    assert {u.role for u in result} - {u.role for u in plain} == HEAD_ROLES
    for include_ineligible in (False, True):
        plans = [plan(s, budget="3", include_ineligible=include_ineligible) for s in (result, plain)]
        assert [t.model_dump() for t in plans[0].tensors] == [t.model_dump() for t in plans[1].tensors]
    assert sum(1 for u in result if u.role == "q_head") == 2 * LLAMA_CONFIG["num_attention_heads"]


def test_unknown_heads_are_said_to_be_unknown(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", config={"model_type": "llama"})
    unit = scan(str(model), heads=True)["model.layers.0.self_attn.q_proj.weight"]
    assert unit.note == "its heads are not settled by the configuration"
