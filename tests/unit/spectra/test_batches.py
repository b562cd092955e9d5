"""Many matrices: threads and accelerators give what one matrix at a time gives."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from oblong.errors import UserError
from oblong.spectra import Outcome, Spectrum, compute_spectra, compute_spectrum
from oblong.spectra import batch as batch_module
from oblong.spectra.accelerator import compute_spectra_on
from tests import tolerances
from tests.matrix_oracles import make_prescribed

MATRICES = [
    np.random.default_rng(0).standard_normal((90, 60)),
    make_prescribed(90, 60, np.append(np.full(59, 3e5), 1.0)),
    make_prescribed(90, 60, np.geomspace(9.0, 1.0, 20)),
    np.zeros((90, 60)),
    np.full((90, 60), np.nan),
]


def read(number: float | None) -> float:
    """The number, or zero where there is none: the outcomes have been compared."""
    return 0.0 if number is None else number


def summarise(spectra: list[Spectrum]) -> list[tuple[object, ...]]:
    return [(s.outcome, s.method, s.rank, s.kappa, s.kappa_error, s.log_volume) for s in spectra]


@pytest.mark.parametrize("num_threads", [1, 2, 7, None])
def test_threads_do_not_change_a_bit(num_threads: int | None) -> None:
    one_by_one = summarise([spectrum for matrix in MATRICES for spectrum in compute_spectra([matrix], num_threads=1)])
    assert summarise(compute_spectra(MATRICES, num_threads=num_threads)) == one_by_one


def test_stacked_matrices() -> None:
    stacked = np.stack(MATRICES)
    assert summarise(compute_spectra(stacked, num_threads=2)) == summarise(compute_spectra(MATRICES, num_threads=2))


def test_no_matrices() -> None:
    assert compute_spectra([]) == []


def test_large_matrices_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "LARGE_ELEMENTS", 1)
    for ours, reference in zip(compute_spectra(MATRICES), map(compute_spectrum, MATRICES), strict=True):
        assert ours.outcome is reference.outcome
        assert read(ours.kappa) == pytest.approx(read(reference.kappa), rel=tolerances.KAPPA_REFINED)


@pytest.mark.parametrize("full", [False, True])
def test_accelerator_agrees_with_the_cpu(full: bool) -> None:
    ours = compute_spectra_on(MATRICES, device="cpu", full=full)
    for device, reference in zip(ours, compute_spectra(MATRICES, full=full), strict=True):
        assert (device.outcome, device.method, device.rank) == (reference.outcome, reference.method, reference.rank)
        assert read(device.kappa) == pytest.approx(read(reference.kappa), rel=tolerances.KAPPA_REFINED)
        assert read(device.log_volume) == pytest.approx(read(reference.log_volume), rel=tolerances.LOG_VOLUME)
        assert read(device.frobenius_norm) == pytest.approx(read(reference.frobenius_norm), rel=tolerances.FLOAT64)


def test_accelerator_without_float64_is_refused() -> None:
    with pytest.raises(UserError, match="no float64"):
        compute_spectra_on(MATRICES, device="mps")


def test_measured_and_unmeasured_kinds_are_both_there() -> None:
    outcomes = [spectrum.outcome for spectrum in compute_spectra(MATRICES)]
    assert outcomes == [Outcome.OK, Outcome.OK, Outcome.RANK_DEFICIENT, Outcome.ZERO, Outcome.NON_FINITE]


def test_importing_spectra_does_not_import_torch() -> None:
    code = "import sys, oblong.spectra; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
