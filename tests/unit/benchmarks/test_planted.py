from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from benchmarks import planted_models
from benchmarks.planted import Truth, factor_shape, plant
from benchmarks.planted_check import list_errors
from benchmarks.planted_models import MODELS, Model, ensure_model
from oblong.scanning import scan

TINY_LLAMA = MODELS["llama8b"].change(
    hidden_size=64,
    intermediate_size=224,
    num_attention_heads=4,
    num_key_value_heads=1,
    num_hidden_layers=2,
    vocab_size=336,
)
TINY_OLMOE = MODELS["olmoe"].change(
    hidden_size=48, intermediate_size=36, num_hidden_layers=1, num_experts=4, vocab_size=96
)
TINY_MIXTRAL = MODELS["mixtral"].change(
    hidden_size=64, intermediate_size=224, num_hidden_layers=1, num_local_experts=4, vocab_size=96
)


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (64, 64), (60, 24), (4, 48), (12, 6)])
@pytest.mark.parametrize("kappa", [5.0, 3e3])
def test_the_truth_is_that_of_the_matrix(shape: tuple[int, int], kappa: float) -> None:
    planted = plant(shape, kappa, np.random.default_rng(1))
    truth = planted.compute_truth()
    values = np.linalg.svd(planted.to_float32().astype(np.float64), compute_uv=False)
    assert planted.shape == shape
    assert values[0] / values[-1] == pytest.approx(truth.kappa, rel=1e-11)
    assert np.log(values).sum() == pytest.approx(truth.log_volume, rel=1e-11)


def test_kappa_is_near_what_was_asked_for() -> None:
    kappas = [plant((64, 256), 300.0, np.random.default_rng(seed)).compute_truth().kappa for seed in range(5)]
    assert all(150 < kappa < 600 for kappa in kappas)


def test_every_entry_is_exact_in_bfloat16() -> None:
    planted = plant((64, 96), 1e3, np.random.default_rng(2))
    kron = np.ldexp(np.kron(planted.left, planted.right), planted.exponent)
    exact = planted.row_signs[:, None] * kron[planted.rows][:, planted.columns] * planted.column_signs
    np.testing.assert_array_equal(planted.to_float32().astype(np.float64), exact)


def test_signs_and_order_differ_from_row_to_row() -> None:
    planted = plant((64, 64), 10.0, np.random.default_rng(2))
    assert set(planted.row_signs) == set(planted.column_signs) == {-1.0, 1.0}
    assert list(planted.rows) != sorted(planted.rows)


@pytest.mark.parametrize(
    "shape",
    [(4096, 14336), (14336, 4096), (1024, 4096), (4096, 4096), (128256, 4096), (64, 2048), (8, 4096), (50304, 2048)],
)
def test_the_shapes_of_real_models_are_products_of_small_ones(shape: tuple[int, int]) -> None:
    (a, b), (c, d) = factor_shape(shape)
    assert (a * c, b * d) == shape
    assert min(a, b) * min(c, d) == min(shape)
    assert max(a, b, c, d) <= 4 * math.sqrt(max(shape))


def test_a_shape_without_factors_is_refused() -> None:
    with pytest.raises(ValueError, match="7 x 11"):
        factor_shape((7, 11))


@pytest.mark.parametrize("model", [TINY_LLAMA, TINY_OLMOE, TINY_MIXTRAL])
def test_a_scan_of_a_planted_model_finds_every_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Model
) -> None:
    monkeypatch.setattr(planted_models, "SHARD_BYTES", 50_000)
    truth = ensure_model(tmp_path, model)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = scan(tmp_path, cache=False, num_threads=1)
    assert list_errors(found, truth) == []
    assert {unit.name for unit in found.measured} == set(truth)


def test_what_a_scan_gets_wrong_or_leaves_out_is_named(tmp_path: Path) -> None:
    truth = ensure_model(tmp_path, TINY_LLAMA)
    found = scan(tmp_path, cache=False, num_threads=1, exclude="lm_head")
    true = truth["model.embed_tokens.weight"]
    truth["model.embed_tokens.weight"] = Truth(kappa=true.kappa * (1 + 1e-5), log_volume=true.log_volume + 1)
    kappa, volume, missing = sorted(list_errors(found, truth), key=lambda error: ("lm_head" in error, error))
    assert "kappa off by 1.00e-05" in kappa
    assert "log-volume off by" in volume
    assert missing.startswith("lm_head.weight: not measured")


def test_a_whole_folder_is_reused_and_another_is_not(tmp_path: Path) -> None:
    truth = ensure_model(tmp_path, TINY_LLAMA)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert ensure_model(tmp_path, TINY_LLAMA) == truth
    assert {path: path.stat().st_mtime_ns for path in files} == files
    smaller = ensure_model(tmp_path, TINY_LLAMA.change(num_hidden_layers=1))
    assert set(smaller) < set(truth)
    assert all(truth[name] == true for name, true in smaller.items())  # a name decides its matrix


def test_the_files_are_what_the_library_reads(tmp_path: Path) -> None:
    ensure_model(tmp_path, TINY_OLMOE)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    assert set(tensors) == set(index["weight_map"])
    assert tensors["model.layers.0.mlp.experts.gate_up_proj"].shape == (4, 72, 48)
    assert tensors["model.norm.weight"].tolist() == [1.0] * 48
    assert sum(tensor.numel() * 2 for tensor in tensors.values()) == index["metadata"]["total_size"]
