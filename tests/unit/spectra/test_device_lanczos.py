"""Lanczos for a stack, on torch's CPU device, against one operator at a time and full eigendecompositions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from oblong.spectra.device_lanczos import compute_largest_stacked
from oblong.spectra.lanczos import RitzPairs, compute_largest
from tests import tolerances
from tests.matrix_oracles import make_prescribed

Array = NDArray[np.float64]

MAX_STEPS = 400
NUM_PAIRS = 6

SPECTRA: Mapping[str, Callable[[int], Array]] = {
    "identity": lambda p: np.ones(p),
    "identity and one more": lambda p: np.append(3.0, np.ones(p - 1)),
    "identity and one less": lambda p: np.append(np.ones(p - 1), 0.1),
    "two levels": lambda p: np.append(np.full(p // 2, 2.0), np.ones(p - p // 2)),
    "five values, three of them simple": lambda p: np.concatenate([[5.0, 4.0, 3.0], np.full(p - 7, 2.0), np.ones(4)]),
    "cluster of three": lambda p: np.append([2.0, 2.0 - 1e-7, 2.0 - 3e-7], np.linspace(1.0, 0.1, p - 3)),
    "geometric": lambda p: np.geomspace(1e6, 1.0, p),
    "fourth powers": lambda p: np.linspace(2.0, 1.0, p) ** 4,
    "nearly singular": lambda p: np.append(np.linspace(1.0, 0.5, p - 1), 1e-14),
}


def make_stack(p: int) -> Array:
    stack = [make_prescribed(p, p, np.sqrt(spectrum(p)), seed) for seed, spectrum in enumerate(SPECTRA.values())]
    return np.stack([matrix.T @ matrix for matrix in stack])


def find_largest(
    stack: Array, members: list[int] | None = None, *, tolerance: float = 1e-10, max_steps: int = MAX_STEPS
) -> dict[int, RitzPairs | None]:
    tensor = torch.from_numpy(stack)
    with ThreadPoolExecutor(2) as pool:
        return compute_largest_stacked(
            lambda blocks: tensor @ blocks,
            tensor,
            range(len(stack)) if members is None else members,
            pool=pool,
            tolerance=tolerance,
            max_steps=max_steps,
            num_pairs=NUM_PAIRS,
        )


def require(pairs: RitzPairs | None) -> RitzPairs:
    assert pairs is not None
    return pairs


@pytest.mark.parametrize("p", [33, 34, 120])
@pytest.mark.parametrize("name", SPECTRA)
def test_agrees_with_one_at_a_time(p: int, name: str) -> None:
    stack = make_stack(p)
    member = list(SPECTRA).index(name)
    matrix, ours = stack[member], require(find_largest(stack)[member])
    alone = require(compute_largest(lambda v: matrix @ v, p, tolerance=1e-10, max_steps=MAX_STEPS, num_pairs=NUM_PAIRS))
    assert ours.converged
    assert alone.converged
    exact = np.linalg.eigvalsh(matrix)
    assert ours.values[0] == pytest.approx(exact[-1], rel=max(ours.error, tolerances.FLOAT64))
    assert ours.values[0] == pytest.approx(alone.values[0], rel=ours.error + alone.error + tolerances.FLOAT64)


@pytest.mark.parametrize("p", [33, 120])
def test_pairs_are_orthonormal_and_their_residuals_true(p: int) -> None:
    stack = make_stack(p)
    for matrix, found in zip(stack, find_largest(stack).values(), strict=True):
        pairs = require(found)
        assert pairs.vectors.shape == (p, pairs.values.size)
        assert pairs.values.size <= NUM_PAIRS
        assert np.all(np.diff(pairs.values) <= 0.0)
        np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(pairs.values.size), atol=tolerances.FLOAT64)
        residuals = np.linalg.norm(matrix @ pairs.vectors - pairs.vectors * pairs.values, axis=0)
        np.testing.assert_allclose(residuals, pairs.residuals, atol=pairs.values[0] * tolerances.FLOAT64)


def test_exhausted_directions_give_fewer_pairs() -> None:
    stack = make_stack(50)
    found = dict(zip(SPECTRA, find_largest(stack).values(), strict=True))
    assert [require(found[name]).values.size for name in ("identity", "identity and one more")] == [2, 3]
    np.testing.assert_allclose(require(found["identity and one more"]).values, [3.0, 1.0, 1.0], rtol=tolerances.FLOAT64)


def test_too_few_steps_are_admitted() -> None:
    stack = make_stack(200)
    found = dict(zip(SPECTRA, find_largest(stack, max_steps=5).values(), strict=True))
    assert not require(found["fourth powers"]).converged
    assert require(found["identity"]).converged


def test_a_looser_tolerance_is_met() -> None:
    stack = make_stack(200)
    for matrix, found in zip(stack, find_largest(stack, tolerance=1e-3).values(), strict=True):
        assert require(found).values[0] == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-3)


def test_overflow_is_told_and_neighbours_go_on() -> None:
    stack = make_stack(60)
    stack[0] *= 1e200
    stack[1] = np.nan
    stack[2] = np.inf
    stack[6] *= 1e300
    found = find_largest(stack, members=[0, 1, 3, 6, 7])
    assert [found[member] for member in (0, 1, 6)] == [None] * 3
    for member in (3, 7):
        exact = np.linalg.eigvalsh(stack[member])[-1]
        assert require(found[member]).values[0] == pytest.approx(exact, rel=tolerances.FLOAT64)
