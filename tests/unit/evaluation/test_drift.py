from __future__ import annotations

import math

import pytest
import torch

from oblong.errors import PlanMismatchError
from oblong.evaluation.drift import compute_drift


def test_counts_elements_and_norms_over_all_tensors() -> None:
    # 2 of 4 and 1 of 2 elements moved; ||delta||^2 = 9 + 16 + 0.25, ||base||^2 = 30 + 2.
    first = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    second = torch.ones(2)
    drift = compute_drift(
        [
            ("a", first, first + torch.tensor([[0.0, 3.0], [0.0, -4.0]])),
            ("b", second, second + torch.tensor([0.5, 0.0])),
        ]
    )
    assert (drift.num_changed_tensors, drift.num_parameters_in_changed) == (2, 6)
    assert drift.fraction_moved == 0.5
    assert drift.relative_change == pytest.approx(math.sqrt(25.25 / 32))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    base, tuned = torch.randn(2, 37, 11, dtype=torch.bfloat16)
    whole = compute_drift([("a", base, tuned)])
    monkeypatch.setattr("oblong.evaluation.drift.CHUNK_ELEMENTS", 10)
    cut = compute_drift([("a", base, tuned)])
    assert cut.fraction_moved == whole.fraction_moved
    assert cut.relative_change == pytest.approx(whole.relative_change)


def test_a_step_that_rounds_away_has_not_moved() -> None:
    base = torch.ones(4, dtype=torch.bfloat16)
    drift = compute_drift([("a", base, (base.float() + 1e-4).to(torch.bfloat16))])
    assert (drift.fraction_moved, drift.relative_change) == (0.0, 0.0)


def test_nothing_changed_is_zero() -> None:
    assert compute_drift([]).fraction_moved == 0.0
    assert compute_drift([]).relative_change == 0.0


def test_what_is_no_number_is_null() -> None:
    zeros, ones = torch.zeros(3), torch.ones(3)
    assert compute_drift([("a", zeros, ones)]).relative_change is None
    diverged = compute_drift([("a", ones, torch.full((3,), math.nan))])
    assert (diverged.fraction_moved, diverged.relative_change) == (1.0, None)


def test_a_pair_of_different_shapes_is_refused() -> None:
    with pytest.raises(PlanMismatchError, match=r"w: has shape \(3,\), the base \(2,\)"):
        compute_drift([("w", torch.zeros(2), torch.zeros(3))])
