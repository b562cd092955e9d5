"""The noise floor against real rounding."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize

from oblong.errors import UserError
from oblong.spectra import bound_unrounded_kappa, compute_noise_floor, compute_spectrum
from oblong.spectra.storage_rounding import CODEBOOK_BITS, GAUSSIAN_STEPS, GRIDS, MANTISSA_BITS, find_largest_rms
from tests import tolerances

Array = np.ndarray[tuple[int, int], np.dtype[np.float64]]

RNG = np.random.default_rng(0)
GAUSSIAN = RNG.standard_normal((256, 512)) * 0.03
OUTLIERS = GAUSSIAN * np.where(np.arange(512) % 200 == 7, 20.0, 1.0)
OUTLIERS[40] *= 5.0
HEAVY = RNG.standard_t(3.0, (256, 512)) * 0.03

TORCH = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
BLOCKS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


def store(exact: Array, storage: str) -> Array:
    if storage in BLOCKS:
        kind = gguf.GGMLQuantizationType[storage]
        blocks: Array = dequantize(quantize(exact.astype(np.float32), kind), kind).astype(np.float64)
        return blocks
    scale = 400.0 / np.abs(exact).max() if storage.startswith("F8") else 1.0
    values: Array = torch.from_numpy(exact * scale).to(TORCH[storage]).double().numpy() / scale
    return values


def compare_floor(exact: Array, storage: str) -> float:
    """Stated over actual norm of the rounding."""
    stored = store(exact, storage)
    return compute_noise_floor(stored, storage) / float(np.linalg.norm(stored - exact, 2))


@pytest.mark.parametrize("storage", [*TORCH, *BLOCKS])
def test_the_floor_of_gaussian_weights_is_their_rounding(storage: str) -> None:
    assert 1.0 <= compare_floor(GAUSSIAN, storage) <= tolerances.NOISE_FLOOR_GAUSSIAN


@pytest.mark.parametrize("storage", [*TORCH, *BLOCKS])
@pytest.mark.parametrize("exact", [OUTLIERS, HEAVY, OUTLIERS.T.copy()], ids=["outliers", "heavy", "outliers, turned"])
def test_the_floor_is_not_below_the_rounding_of_uneven_weights(exact: Array, storage: str) -> None:
    """rms(E) (sqrt m + sqrt n) was a fifth of ||E|| for channels 20 times larger than the others."""
    assert 1.0 <= compare_floor(exact, storage) <= tolerances.NOISE_FLOOR_UNEVEN


def test_the_steps_that_a_quantiser_tells_are_taken() -> None:
    """0.5 * sqrt(512) + 0.25 * sqrt(256) = 15.3..., whatever the values are."""
    floor = compute_noise_floor(GAUSSIAN, "anything", rounding_rms=(0.5, 0.25))
    assert floor == pytest.approx(0.5 * np.sqrt(512) + 0.25 * np.sqrt(256), rel=tolerances.FLOAT64)


@pytest.mark.parametrize("exponent", [-120, -30, 0, 30, 120])
def test_the_largest_row_and_column_are_found_at_any_scale(exponent: int) -> None:
    """Rows (3, 4) and (0, 0): row rms 5 / sqrt 2, column rms 4 / sqrt 2."""
    matrix = np.ldexp(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32), exponent)
    expected = np.ldexp(np.array([5.0, 4.0]) / np.sqrt(2), exponent)
    assert find_largest_rms(matrix) == pytest.approx(tuple(expected), rel=tolerances.FLOAT64)


def test_a_part_that_cuts_through_its_blocks_has_a_floor() -> None:
    assert compute_noise_floor(GAUSSIAN[:, :50], "Q4_0") > 0


def test_interval_holds_the_kappa_of_the_unrounded_weights() -> None:
    """Singular values (1 .. 0.02) above the bf16 floor: the stored kappa may differ, the interval may not miss."""
    left = np.linalg.qr(np.random.default_rng(1).standard_normal((300, 100)))[0]
    exact = left * np.geomspace(1.0, 0.02, 100)
    values = torch.from_numpy(exact).to(torch.bfloat16).double().numpy()
    stored = compute_spectrum(values)
    floor = compute_noise_floor(values, "BF16")
    assert stored.sigma_max is not None
    assert stored.sigma_min is not None
    low, high = bound_unrounded_kappa(stored.sigma_max, stored.sigma_min, floor, is_singular=False)
    assert high is not None
    assert low < 50.0 < high
    assert high / low < 1.5


def test_floor_scales_with_the_weights() -> None:
    small, large = (compute_noise_floor(GAUSSIAN * c, "BF16") for c in (1.0, 1024.0))
    assert large == 1024 * small


def test_coarser_formats_round_more() -> None:
    order = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"]
    blocks = ["Q8_0", "Q6_K", "Q5_0", "Q4_0", "Q3_K"]
    for names in (order, blocks):
        floors = [compute_noise_floor(GAUSSIAN, name) for name in names]
        assert floors == sorted(floors)
        assert len(set(floors)) == len(floors)


def test_every_readable_format_has_a_floor() -> None:
    from oblong.checkpoints.dtypes import FORMATS

    norm = float(np.linalg.norm(GAUSSIAN))
    for name in {*FORMATS, *MANTISSA_BITS, *GRIDS, *GAUSSIAN_STEPS, *CODEBOOK_BITS, "F8_E4M3FNUZ"}:
        assert 0 < compute_noise_floor(GAUSSIAN, name) < norm


def test_unknown_format_is_named() -> None:
    with pytest.raises(UserError, match="'Q9_X' is not known; known are F64"):
        compute_noise_floor(GAUSSIAN, "Q9_X")
