from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scan_llama8b, scan_moe, scan_shapes
from benchmarks.planted import Truth
from benchmarks.planted_models import MODELS, ensure_model
from oblong.scanning import scan
from oblong.spectra import compute_spectrum
from tests.unit.benchmarks.test_planted import TINY_LLAMA, TINY_OLMOE


def test_the_llama_benchmark_scans_checks_and_keeps_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scan_llama8b, "MODEL", TINY_LLAMA)
    arguments = ["--layers", "2", "--folder", str(tmp_path / "model"), "--threads", "1", "--json", str(tmp_path / "j")]
    monkeypatch.setattr(sys, "argv", ["scan_llama8b", *arguments])
    scan_llama8b.main()
    result = json.loads((tmp_path / "j").read_text())
    assert (result["planted"], result["errors"]) == (16, [])
    assert result["limit_seconds"] == pytest.approx(600)
    assert result["kinds"]["down 64 x 224"]["matrices"] == 2
    assert 0 < result["scan_bytes"] < scan_llama8b.LIMIT_BYTES
    assert "16 of 16 right" in capsys.readouterr().out


def test_a_broken_promise_ends_the_llama_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_llama8b, "MODEL", TINY_LLAMA)
    monkeypatch.setattr(scan_llama8b, "LIMIT_BYTES", 1)
    monkeypatch.setattr(sys, "argv", ["x", "--layers", "2", "--folder", str(tmp_path / "model"), "--minutes", "0"])
    with pytest.raises(SystemExit, match=r"(?s)more than 0 s.*too much memory"):
        scan_llama8b.main()


def test_the_planted_layer_in_memory_is_the_one_on_the_disk(tmp_path: Path) -> None:
    ensure_model(tmp_path, TINY_OLMOE)
    module = scan_moe.load_module(tmp_path, TINY_OLMOE)
    names = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    assert names == {
        "model.layers.0.mlp.experts.gate_up_proj": (4, 72, 48),
        "model.layers.0.mlp.experts.down_proj": (4, 48, 36),
    }
    found = [scan(what, include=scan_moe.EXPERTS, cache=False, num_threads=1) for what in (tmp_path, module)]
    kappas = [{unit.name: unit.measures for unit in one.measured} for one in found]
    assert len(kappas[0]) == 12
    assert kappas[0] == kappas[1]
    assert scan_moe.run_loop(module) == 12


def test_ratios_are_medians_of_the_rounds() -> None:
    rows = scan_shapes.summarise({"oblong": [1.0, 2.0, 4.0], "floor": [1.0, 1.0, 1.0], "svd f32": [30.0]})
    assert rows["floor"]["times_oblong"] == 0.5
    assert rows["svd f32"]["times_oblong"] == 30.0


def test_a_missed_ratio_is_named() -> None:
    rows = {name: {"times_oblong": 14.0} for name in ("oblong", "floor", "svdvals f32", "svd f32")}
    (missed,) = scan_shapes.find_missed_goals("2048x8192", rows)
    assert "svd f32 takes only 14.0 times ours, 18.0" in missed
    rows["floor"]["times_oblong"] = 0.5
    assert any("2.00 times the floor" in text for text in scan_shapes.find_missed_goals("2048x8192", rows))


def test_every_rival_measures_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_shapes, "OPTIONAL", {})  # they need not be installed, and take seconds to import
    matrix = np.random.default_rng(0).standard_normal((40, 64), dtype=np.float32)
    rivals = scan_shapes.list_rivals(1)
    assert {"oblong", "floor", "svdvals f32", "svd f32", "cond f32", "numpy f64", "scipy f64"} <= set(rivals)
    for run in rivals.values():
        run(matrix)


def test_a_kappa_beyond_its_stated_error_is_named() -> None:
    found = compute_spectrum(np.random.default_rng(0).standard_normal((40, 64)))
    assert found.kappa is not None
    assert scan_shapes.check_truth("40x64", found, Truth(kappa=found.kappa, log_volume=0.0)) == []
    assert scan_shapes.check_truth("40x64", found, Truth(kappa=found.kappa * 1.001, log_volume=0.0)) != []


def test_the_models_have_the_sizes_of_the_real_ones() -> None:
    billions = {name: sum(t.num_bytes for t in model.list_tensors()) / 2e9 for name, model in MODELS.items()}
    assert billions["llama8b"] == pytest.approx(8.03, abs=0.01)
    assert billions["olmoe"] == pytest.approx(6.92, abs=0.01)
    assert billions["mixtral"] == pytest.approx(46.7, abs=0.05)
