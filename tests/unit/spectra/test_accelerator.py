"""The accelerator's code on torch's CPU device, against one matrix at a time; on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from oblong.errors import OperationalError
from oblong.spectra import Outcome, Spectrum, compute_spectrum, device_factor, device_stack, gram_route
from oblong.spectra import accelerator as accelerator_module
from oblong.spectra.accelerator import compute_spectra_on, estimate_bytes, split_into_stacks
from oblong.spectra.device_factor import factorise, invert_lower
from oblong.spectra.device_member import DeviceMatrix, compute_stacked_gram
from oblong.spectra.device_stack import DeviceStack
from oblong.spectra.tall import TallMatrix
from oblong.spectra.workspace import Workspace
from tests import tolerances
from tests.matrix_oracles import PROFILES, make_exact, make_prescribed

Array = NDArray[np.float64]

GPU = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
)
DEVICES = pytest.mark.parametrize("device", ["cpu", GPU])

NAN_INSIDE = make_prescribed(80, 50, np.linspace(9.0, 1.0, 50))
NAN_INSIDE[70, 3] = np.nan

MIXED = {
    "gaussian": np.random.default_rng(0).standard_normal((80, 50)),
    "to be refined": make_prescribed(80, 50, np.append(np.full(49, 3e5), 1.0)),
    "kappa 1e5": make_prescribed(80, 50, np.geomspace(1e5, 1.0, 50)),
    "kappa 1e6": make_prescribed(80, 50, np.geomspace(1e6, 1.0, 50)),
    "kappa 1e9": make_prescribed(80, 50, np.geomspace(1e9, 1.0, 50)),
    "rank 20": make_prescribed(80, 50, np.geomspace(9.0, 1.0, 20)),
    "orthonormal": make_prescribed(80, 50, np.ones(50)),
    "tiny": np.random.default_rng(1).standard_normal((80, 50)) * 1e-30,
    "huge": np.random.default_rng(2).standard_normal((80, 50)) * 1e30,
    "zero": np.zeros((80, 50)),
    "NaN inside": NAN_INSIDE,
    "infinite": np.full((80, 50), np.inf),
}


def check(ours: Spectrum, reference: Spectrum) -> None:
    """Equal up to rounding, which the reference's own error bound covers for kappa."""
    assert (ours.outcome, ours.method, ours.rank, ours.shape) == (
        reference.outcome,
        reference.method,
        reference.rank,
        reference.shape,
    )
    if reference.kappa is None or reference.kappa_error is None:
        assert ours.kappa is None
        return
    assert ours.kappa_error == pytest.approx(reference.kappa_error, rel=0.01)
    assert ours.kappa == pytest.approx(reference.kappa, rel=min(reference.kappa_error, tolerances.KAPPA_REFINED))
    assert ours.log_volume == pytest.approx(reference.log_volume, rel=tolerances.LOG_VOLUME, abs=tolerances.LOG_VOLUME)
    for name in ("sigma_max", "frobenius_norm", "participation_ratio"):
        assert getattr(ours, name) == pytest.approx(getattr(reference, name), rel=tolerances.KAPPA_AGAINST_SVD)
    assert (ours.singular_values is None) is (reference.singular_values is None)
    if ours.singular_values is not None and reference.singular_values is not None:
        assert np.abs(ours.singular_values / reference.singular_values - 1).max() <= tolerances.FULL_SPECTRUM


@DEVICES
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
def test_every_member_of_a_stack_is_as_if_alone(device: str, full: bool, transpose: bool) -> None:
    matrices = [matrix.T if transpose else matrix for matrix in MIXED.values()]
    for matrix, ours in zip(matrices, compute_spectra_on(matrices, device=device, full=full), strict=True):
        check(ours, compute_spectrum(matrix, full=full))


def test_all_outcomes_and_both_routes_are_in_the_mixture() -> None:
    spectra = compute_spectra_on(list(MIXED.values()), device="cpu")
    assert {s.outcome for s in spectra} == set(Outcome) - {Outcome.NOT_CONVERGED}
    assert len({s.method for s in spectra if s.outcome is Outcome.OK}) == 2


def test_the_mixture_has_a_member_that_is_refined(monkeypatch: pytest.MonkeyPatch) -> None:
    refined: list[int] = []
    refine = gram_route.refine

    def spy(matrix: object, *others: object, **options: object) -> object:
        refined.append(1)
        return refine(matrix, *others, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(gram_route, "refine", spy)
    found = compute_spectra_on([MIXED["gaussian"], MIXED["to be refined"]], device="cpu")
    assert len(refined) == 1
    assert found[1].method == "gram"


@DEVICES
@pytest.mark.parametrize("shape", [(1, 9), (40, 33), (33, 33), (70, 300), (300, 70), (257, 257), (600, 513)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_shapes_and_stored_formats(device: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]
    for tensor, ours in zip(tensors, compute_spectra_on(tensors, device=device), strict=True):
        check(ours, compute_spectrum(tensor.double().numpy()))


@DEVICES
@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES.keys())
@pytest.mark.parametrize("kappa", [30.0, 1e3, 1e5, 1e6, 1e8])
def test_the_stated_error_holds(device: str, profile: Callable[[int, float], Array], kappa: float) -> None:
    matrices, truths = zip(*(make_exact(128, 64, profile(64, kappa), seed) for seed in range(3)), strict=True)
    for ours, truth in zip(compute_spectra_on(matrices, device=device), truths, strict=True):
        assert ours.kappa is not None
        assert ours.kappa_error is not None
        assert abs(ours.kappa / (truth[0] / truth[-1]) - 1) <= ours.kappa_error


@pytest.mark.parametrize("exponent", [-80, -155, -158, -160, -170])
def test_an_inverse_beyond_float64_is_left_to_the_svd(exponent: int) -> None:
    graded = MIXED["gaussian"].copy()
    graded[:, 3] *= 10.0**exponent
    found, neighbour = compute_spectra_on([graded, MIXED["gaussian"]], device="cpu")
    truth = np.linalg.svd(graded, compute_uv=False)
    assert (found.outcome, found.method, found.rank) == (Outcome.RANK_DEFICIENT, "svd", 49)
    assert found.kappa == pytest.approx(truth[0] / truth[48], rel=tolerances.KAPPA_AGAINST_SVD)
    check(neighbour, compute_spectrum(MIXED["gaussian"]))


def test_neighbours_do_not_change_a_result() -> None:
    alone = [compute_spectra_on([matrix], device="cpu")[0] for matrix in MIXED.values()]
    for order in (1, -1):
        together = compute_spectra_on(list(MIXED.values())[::order], device="cpu")[::order]
        for ours, reference in zip(together, alone, strict=True):
            check(ours, reference)
            if ours.kappa is not None and reference.kappa is not None and reference.kappa < 1e6:
                assert ours.kappa == pytest.approx(reference.kappa, rel=tolerances.KAPPA_AGAINST_SVD)


@pytest.mark.parametrize("exponent", [-100, 100])
def test_a_power_of_two_changes_no_bit_of_kappa(exponent: int) -> None:
    matrices = [MIXED["gaussian"], MIXED["to be refined"]]
    scaled = compute_spectra_on([np.ldexp(matrix, exponent) for matrix in matrices], device="cpu")
    assert [s.kappa for s in scaled] == [s.kappa for s in compute_spectra_on(matrices, device="cpu")]


def test_small_panels_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_stack, "PANEL_ELEMENTS", 1)
    monkeypatch.setattr(device_stack, "SMALLEST_BLOCK", 7)
    monkeypatch.setattr(device_factor, "BLOCK", 8)
    for transpose in (False, True):
        matrices = [matrix.T if transpose else matrix for matrix in MIXED.values()]
        for matrix, ours in zip(matrices, compute_spectra_on(matrices, device="cpu", full=True), strict=True):
            check(ours, compute_spectrum(matrix, full=True))


def test_matrices_are_not_changed() -> None:
    stored = [np.random.default_rng(0).standard_normal((80, 50)), np.random.default_rng(1).standard_normal((80, 50))]
    for matrix in stored:
        matrix.setflags(write=False)
    before = [matrix.copy() for matrix in stored]
    tensors = [torch.randn(80, 50, dtype=torch.float64)]
    kept = tensors[0].clone()
    compute_spectra_on([*stored, *tensors], device="cpu")
    for matrix, copy in zip(stored, before, strict=True):
        np.testing.assert_array_equal(matrix, copy)
    assert torch.equal(tensors[0], kept)


@pytest.mark.parametrize("full", [False, True])
def test_beyond_the_range_of_float64_is_an_outcome(full: bool) -> None:
    found, neighbour = compute_spectra_on([np.full((80, 50), 1.7e308), MIXED["gaussian"]], device="cpu", full=full)
    assert found.outcome is Outcome.NOT_CONVERGED
    check(neighbour, compute_spectrum(MIXED["gaussian"], full=full))


def test_products_of_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_stack, "PANEL_ELEMENTS", 1)
    monkeypatch.setattr(device_stack, "SMALLEST_BLOCK", 7)
    matrix = np.ldexp(MIXED["gaussian"], 3)
    stack = DeviceStack(torch.from_numpy(matrix.copy())[None], [float(np.abs(matrix).max())])
    ours = DeviceMatrix(stack, compute_stacked_gram(stack, full=False), 0)
    reference = TallMatrix(matrix, float(np.abs(matrix).max()), Workspace())
    block, also = np.random.default_rng(0).standard_normal((2, 50, 3))
    for others in (None, also):
        found, expected = ours.multiply_twice(block, others), reference.multiply_twice(block, others)
        for name in ("product", "normal", "also", "sum_of_squares"):
            np.testing.assert_allclose(
                getattr(found, name), getattr(expected, name), rtol=tolerances.FLOAT64, atol=1e-10
            )


@pytest.mark.parametrize("matrix", [np.ones(3), np.ones((3, 3), dtype=int), np.ones((0, 3)), torch.ones(3)])
def test_no_matrix_of_floats_is_refused(matrix: NDArray[np.floating] | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="non-empty matrix of floats"):
        compute_spectra_on([matrix], device="cpu")


def test_stacks_are_bounded_and_of_one_kind() -> None:
    one, other = torch.ones(50, 40), torch.ones(40, 50)
    tensors = [one, one, one, other, one.double()]
    assert [len(stack) for stack in split_into_stacks(tensors, 2 * estimate_bytes(one))] == [2, 1, 1, 1]
    assert [len(stack) for stack in split_into_stacks(tensors, 1)] == [1] * 5


def test_a_stack_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, sizes = accelerator_module._measure_together, []

    def fail_above_two(tensors: list[torch.Tensor], *others: object, **options: object) -> list[Spectrum]:
        sizes.append(len(tensors))
        if len(tensors) > 2:
            raise torch.OutOfMemoryError
        return measure(tensors, *others, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(accelerator_module, "_measure_together", fail_above_two)
    matrices = [np.random.default_rng(seed).standard_normal((80, 50)) for seed in range(5)]
    for matrix, ours in zip(matrices, compute_spectra_on(matrices, device="cpu"), strict=True):
        check(ours, compute_spectrum(matrix))
    assert sizes == [5, 2, 3, 1, 2]


def test_one_matrix_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> list[Spectrum]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(accelerator_module, "_measure_together", fail)
    with pytest.raises(OperationalError, match=r"cpu has too little free memory for a 80 x 50 matrix.*--device cpu"):
        compute_spectra_on([MIXED["gaussian"]], device="cpu")


@pytest.mark.parametrize("size", [5, 8, 20, 61])
def test_blocked_factor_and_inverse(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_factor, "BLOCK", 8)
    tall = torch.randn(3, 2 * size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    gram = tall.mT @ tall
    gram[1] -= 2 * gram[1].diagonal().max() * torch.eye(size)
    factor = factorise(gram)
    assert (factor.info != 0).tolist() == [False, True, False]
    for member in (0, 2):
        torch.testing.assert_close(factor.lower[member], torch.linalg.cholesky(gram[member]), rtol=1e-12, atol=1e-12)
        product = invert_lower(factor.lower)[member] @ factor.lower[member]
        torch.testing.assert_close(product, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-11)
