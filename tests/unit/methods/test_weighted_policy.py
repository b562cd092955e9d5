"""Weighted policy learning: the rewarded expert wins, one step is the published one, policies stay probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from oblong.methods.weighted_policy import WeightedPolicyRouter, project_to_simplex


def test_each_task_finds_the_expert_that_is_rewarded() -> None:
    router = WeightedPolicyRouter(num_tasks=2, num_choices=3)
    best = (2, 1)
    for _ in range(600):
        for task in range(2):
            choice = router.choose(task)
            router.update(task, choice, reward=1.0 if choice == best[task] else 0.0)
    assert [router.choose_best(task) for task in range(2)] == list(best)
    assert bool((router.policy_KE.max(-1).values > 0.9).all())


@pytest.mark.parametrize(("reward", "factor"), [(2.0, 1 - 1 / 4), (-2.0, 1 / 4)])
def test_one_step_is_the_published_rule(reward: float, factor: float) -> None:
    """The mean is 0 after a first reward of 0; the projection spreads the change evenly over all four."""
    router = WeightedPolicyRouter(1, 4, step=0.05, collaboration=0.0, floor=0.0)
    router.update(0, 1, reward=0.0)
    assert router.policy_KE[0].tolist() == [0.25] * 4
    router.update(0, 1, reward=reward)
    change = 0.05 * reward * factor
    expected = [0.25 - change / 4] * 4
    expected[1] += change
    assert router.policy_KE[0].tolist() == pytest.approx(expected)


def test_agreement_is_rewarded_by_its_share() -> None:
    """Equal rewards: only the collaboration moves the policy, towards what was chosen before."""
    router = WeightedPolicyRouter(1, 2, collaboration=0.5)
    for _ in range(5):
        router.update(0, 0, reward=1.0)
    assert float(router.policy_KE[0, 0]) > 0.5
    still = WeightedPolicyRouter(1, 2, collaboration=0.0)
    for _ in range(5):
        still.update(0, 0, reward=1.0)
    assert still.policy_KE[0].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("seed", range(5))
def test_the_projection_is_the_nearest_point(seed: int) -> None:
    """Against a general solver."""
    point = np.random.default_rng(seed).normal(size=4)
    found = project_to_simplex(torch.tensor(point), 0.05).numpy()
    reference = minimize(
        lambda x: np.sum((x - point) ** 2),
        np.full(4, 0.25),
        bounds=[(0.05, 1.0)] * 4,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1.0},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(found, reference.x, atol=1e-6)
    assert found.sum() == pytest.approx(1.0)
    assert found.min() >= 0.05 - 1e-12
