"""The noise floor against real rounding."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize

from oblong.errors import UserError
from oblong.spectra import bound_unrounded_kappa, compute_noise_floor, compute_spectrum
from oblong.spectra.noise import compute_relative_rounding
from tests import tolerances

EXACT = np.random.default_rng(0).standard_normal((256, 512)) * 0.03


def measure_floor(stored: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    return float(np.linalg.norm(stored - EXACT, 2))


@pytest.mark.parametrize(
    ("storage", "dtype"), [("F16", torch.float16), ("BF16", torch.bfloat16), ("F32", torch.float32)]
)
def test_floats(storage: str, dtype: torch.dtype) -> None:
    stored = torch.from_numpy(EXACT).to(dtype).double().numpy()
    floor = compute_noise_floor(compute_spectrum(stored), storage)
    assert floor == pytest.approx(measure_floor(stored), rel=tolerances.NOISE_FLOOR_FLOAT)


@pytest.mark.parametrize(("storage", "dtype"), [("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)])
def test_float8_with_a_scale(storage: str, dtype: torch.dtype) -> None:
    scale = 400.0 / np.abs(EXACT).max()
    stored = torch.from_numpy(EXACT * scale).to(dtype).double().numpy() / scale
    floor = compute_noise_floor(compute_spectrum(stored), storage)
    assert floor == pytest.approx(measure_floor(stored), rel=tolerances.NOISE_FLOOR_FLOAT)


@pytest.mark.parametrize("storage", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_blocks(storage: str) -> None:
    kind = gguf.GGMLQuantizationType[storage]
    stored = dequantize(quantize(EXACT.astype(np.float32), kind), kind).astype(np.float64)
    floor = compute_noise_floor(compute_spectrum(stored), storage)
    assert floor == pytest.approx(measure_floor(stored), rel=tolerances.NOISE_FLOOR_BLOCKS)


def test_interval_holds_the_kappa_of_the_unrounded_weights() -> None:
    """Singular values (1 .. 0.02) above the bf16 floor: the stored kappa may differ, the interval may not miss."""
    left = np.linalg.qr(np.random.default_rng(1).standard_normal((300, 100)))[0]
    exact = left * np.geomspace(1.0, 0.02, 100)
    stored = compute_spectrum(torch.from_numpy(exact).to(torch.bfloat16).double().numpy())
    floor = compute_noise_floor(stored, "BF16")
    assert stored.sigma_max is not None
    assert stored.sigma_min is not None
    low, high = bound_unrounded_kappa(stored.sigma_max, stored.sigma_min, floor, is_singular=False)
    assert high is not None
    assert low < 50.0 < high
    assert high / low < 1.5


def test_floor_scales_with_the_weights() -> None:
    small, large = (compute_noise_floor(compute_spectrum(EXACT * c), "BF16") for c in (1.0, 1024.0))
    assert large == 1024 * small


def test_coarser_formats_round_more() -> None:
    order = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"]
    blocks = ["Q8_0", "Q6_K", "Q5_0", "Q4_0", "Q3_K", "IQ2_XXS", "IQ1_S"]
    for names in (order, blocks):
        rounding = [compute_relative_rounding(name) for name in names]
        assert rounding == sorted(rounding)
        assert len(set(rounding)) == len(rounding)


def test_every_readable_format_has_a_floor() -> None:
    from oblong.checkpoints.dtypes import FORMATS

    assert all(0 < compute_relative_rounding(name) < 1 for name in FORMATS)


def test_unknown_format_is_named() -> None:
    with pytest.raises(UserError, match="'Q9_X' is not known; known are F64"):
        compute_relative_rounding("Q9_X")


def test_refuses_a_spectrum_without_numbers() -> None:
    with pytest.raises(ValueError, match="has no noise floor"):
        compute_noise_floor(compute_spectrum(np.zeros((3, 3))), "F32")
