"""Criteria from singular values, against the published codes and the matrices themselves."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from oblong.errors import MissingExtraError, RecordError, SelectionError
from oblong.planning import find_criterion
from oblong.planning.spectral_criteria import compute_alpha, compute_snr, compute_snr_sqrt_n
from oblong.records import Scan
from oblong.records.packed_spectrum import PackedSpectrum
from tests.plan_builders import names_of, plan_with
from tests.scan_builders import make_scan, make_unit

Array = NDArray[np.float64]
SPECTRAL = ("snr", "snr_sqrt_n", "alpha")
FLOAT32_AGREES = 2e-5  # Spectrum decomposes in float32


def draw_matrix(rows: int, columns: int, *, signal: float = 0.0, seed: int = 0) -> Array:
    """Gaussian noise, and on top of it four directions of the given strength."""
    generator = np.random.default_rng(seed)
    left, _ = np.linalg.qr(generator.normal(size=(rows, 4)))
    right, _ = np.linalg.qr(generator.normal(size=(columns, 4)))
    return np.asarray(generator.normal(size=(rows, columns)) + signal * left @ right.T, dtype=np.float64)


def find_values(matrix: Array) -> Array:
    return np.asarray(np.linalg.svd(matrix, compute_uv=False), dtype=np.float64)


def make_full_scan(matrices: dict[str, Array]) -> Scan:
    """A Scan that holds the matrices' singular values, as `--spectrum full` makes it."""
    packed = {name: PackedSpectrum.pack(find_values(matrix)) for name, matrix in matrices.items()}
    units = [
        make_unit(name, role="v", shape=matrix.shape).model_copy(update={"spectrum_digest": packed[name].digest})
        for name, matrix in matrices.items()
    ]
    return make_scan(units).with_spectra(packed)


def spectrum_by_torch(matrix: Array) -> float:
    """Spectrum's steps in its own arithmetic: torch, float32, torch.quantile."""
    weight = torch.from_numpy(matrix).float()
    values = torch.linalg.svdvals(weight)
    rows, columns = weight.shape
    beta = rows / columns if rows < columns else columns / rows
    sigma = (torch.quantile(values, 0.75) - torch.quantile(values, 0.25)) / 1.349
    above = values > sigma * np.sqrt((1 + np.sqrt(beta)) ** 2)
    below = values[~above].sum() if (~above).any() else torch.tensor(1.0)
    return float(values[above].sum() / below / values[0])


@pytest.mark.parametrize(("rows", "columns", "signal"), [(40, 90, 0.0), (90, 40, 60.0), (64, 64, 30.0), (20, 200, 0.0)])
def test_snr_is_spectrums(rows: int, columns: int, signal: float) -> None:
    matrix = draw_matrix(rows, columns, signal=signal)
    found = compute_snr(find_values(matrix), (rows, columns))
    assert found == pytest.approx(spectrum_by_torch(matrix), rel=FLOAT32_AGREES)


def test_snr_by_hand() -> None:
    # Quartiles of 8, 4, 3, 2, 1 are 4 and 2; 2 / 1.349 * (1 + sqrt(5 / 20)) = 2.22, so 8 + 4 + 3 over 2 + 1, over 8.
    values = np.array([8.0, 4.0, 3.0, 2.0, 1.0])
    assert compute_snr(values, (5, 20)) == pytest.approx(15 / 3 / 8)
    # v^2 = 94 / 100; 0.9695 * (sqrt 5 + sqrt 20) = 6.50, so 8 over the rest, over 8.
    assert compute_snr_sqrt_n(values, (5, 20)) == pytest.approx(8 / 10 / 8)


def test_without_sqrt_n_noise_counts_as_signal_and_with_it_does_not() -> None:
    noise = find_values(draw_matrix(100, 800))
    assert compute_snr(noise, (100, 800)) == pytest.approx(noise.sum() / noise[0])  # nothing is below the threshold
    assert compute_snr_sqrt_n(noise, (100, 800)) < 0.01 * compute_snr(noise, (100, 800))
    planted = find_values(draw_matrix(100, 800, signal=200.0))
    four = planted[:4].sum() / planted[4:].sum() / planted[0]
    assert compute_snr_sqrt_n(planted, (100, 800)) == pytest.approx(four)


def test_with_sqrt_n_the_ratio_of_noise_is_about_zero_at_every_shape() -> None:
    for shape in ((50, 50), (50, 100), (50, 500), (500, 50)):
        assert compute_snr_sqrt_n(find_values(draw_matrix(*shape)), shape) < 2e-3


def test_alpha_is_what_weightwatcher_reports_of_a_layer() -> None:
    weightwatcher = pytest.importorskip("weightwatcher")
    layer = torch.nn.Linear(120, 60, bias=False)
    weight = draw_matrix(60, 120, signal=20.0) @ np.diag(np.geomspace(1, 30, 120))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
    values = find_values(layer.weight.detach().double().numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        watcher = weightwatcher.WeightWatcher(model=torch.nn.Sequential(layer))
        details = watcher.analyze(plot=False, svd_method="accurate", min_evals=1)
    assert compute_alpha(values, (60, 120)) == pytest.approx(float(details["alpha"].iloc[0]), rel=1e-6)


def test_alpha_of_a_pareto_tail_is_its_exponent(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("weightwatcher")
    # Quantiles of p(x) ~ x^-3: the survival function is x^-2, so x = (1 - u)^(-1/2).
    eigenvalues = (1 - (np.arange(2000) + 0.5) / 2000) ** -0.5
    alpha = compute_alpha(np.sqrt(eigenvalues)[::-1].copy(), (2000, 2000))
    assert alpha == pytest.approx(3.0, rel=0.02)
    assert compute_alpha(np.array([2.0, 1.0, 0.5]), (3, 3)) is not None
    assert compute_alpha(np.array([1.0, 1e-4]), (2, 2)) is None
    assert capsys.readouterr().out == ""


def test_alpha_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weightwatcher", None)
    with pytest.raises(MissingExtraError, match=r"criterion alpha needs .*oblong\[bench\]"):
        compute_alpha(np.array([3.0, 2.0, 1.25]), (3, 3))


@pytest.mark.parametrize("criterion", SPECTRAL)
def test_plans_from_a_full_scan(criterion: str, tmp_path: Path) -> None:
    if criterion == "alpha":
        pytest.importorskip("weightwatcher")
    matrices = {f"t{index}": draw_matrix(30, 60, signal=40.0 * index, seed=index) for index in range(4)}
    scan = make_full_scan(matrices)
    file = tmp_path / "scan.jsonl"
    scan.write(file)
    plan = plan_with(Scan.read(file), "2", criterion=criterion, order="highest")
    compute: Any = {"snr": compute_snr, "snr_sqrt_n": compute_snr_sqrt_n, "alpha": compute_alpha}[criterion]
    ranked = sorted(matrices, key=lambda name: compute(find_values(matrices[name]), (30, 60)), reverse=True)
    assert names_of(plan) == ranked[:2]
    assert f"highest {criterion} of 4 tensors" in plan.tensors[0].reason


@pytest.mark.parametrize("criterion", SPECTRAL)
def test_says_what_to_scan_with_where_singular_values_are_missing(criterion: str) -> None:
    scan = make_scan()
    assert find_criterion(criterion).needs_spectrum
    with pytest.raises(SelectionError, match=rf"{criterion} needs every singular value.*--spectrum full"):
        plan_with(scan, "5%", criterion=criterion)


def test_a_lost_file_of_singular_values_is_named(tmp_path: Path) -> None:
    file = tmp_path / "scan.jsonl"
    make_full_scan({"t0": draw_matrix(5, 9)}).write(file)
    (tmp_path / "scan.jsonl.spectra").unlink()
    with pytest.raises(RecordError, match=r"scan\.jsonl\.spectra: no such file"):
        plan_with(Scan.read(file), "1", criterion="snr")
