"""A router that learns by reward which expert serves which task: weighted policy learning.

    D = R + rho c - V                                        advantage of the chosen expert a
    pi(a) <- pi(a) + step D (pi(a) if D < 0 else 1 - pi(a))  then the nearest point of the simplex

R is the reward (minus the loss, say), V the mean of the task's recent rewards, and c the share of recent choices that
fell on a: it rewards agreement with oneself, weighted by rho. The factor slows an action down that is near 0 or 1,
which is what makes the rule converge where others circle.

Source: Abdallah and Lesser 2008 for the rule; Rosenbaum, Klinger and Riemer 2018, "Routing networks", Alg. 3, for its
use with one agent per task, and for rho (0.1) and the history (256). Their router chooses per layer; this one chooses
an expert for the whole sequence, for `LoraExperts(routing="given")`. Their code's update differs from the published
rule (it regresses pi towards pi (2 - D) for D > 0) and is not reproduced.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class WeightedPolicyRouter:
    """One tabular agent per task.

    Args:
        num_tasks: agents.
        num_choices: experts, the base included.
        step: size of an update.
        collaboration: rho.
        history: rewards and choices that are remembered per task.
        floor: the least probability of a choice, so that every expert is still tried.
        seed: of the choices.

    Attributes:
        policy_KE: probabilities, num_tasks x num_choices, float64.
    """

    def __init__(
        self,
        num_tasks: int,
        num_choices: int,
        *,
        step: float = 0.1,
        collaboration: float = 0.1,
        history: int = 256,
        floor: float = 1e-3,
        seed: int = 0,
    ) -> None:
        self.policy_KE = torch.full((num_tasks, num_choices), 1.0 / num_choices, dtype=torch.float64)
        self._step, self._collaboration, self._floor = step, collaboration, floor
        self._rewards: list[deque[float]] = [deque(maxlen=history) for _ in range(num_tasks)]
        self._choices: list[deque[int]] = [deque(maxlen=history) for _ in range(num_tasks)]
        self._generator = torch.Generator().manual_seed(seed)

    def choose(self, task: int) -> int:
        """Draw an expert for a task; 0 is the base."""
        return int(torch.multinomial(self.policy_KE[task], 1, generator=self._generator))

    def choose_best(self, task: int) -> int:
        """The most probable expert, for use after training."""
        return int(self.policy_KE[task].argmax())

    def update(self, task: int, choice: int, reward: float) -> None:
        """Learn from the reward of a choice; the first reward of a task only sets its mean."""
        rewards, choices = self._rewards[task], self._choices[task]
        if rewards:
            agreement = self._collaboration * choices.count(choice) / len(choices)
            advantage = reward + agreement - sum(rewards) / len(rewards)
            probability = float(self.policy_KE[task, choice])
            slowed = advantage * (probability if advantage < 0 else 1.0 - probability)
            moved_E = self.policy_KE[task].clone()
            moved_E[choice] += self._step * slowed
            self.policy_KE[task] = project_to_simplex(moved_E, self._floor)
        rewards.append(reward)
        choices.append(choice)


def project_to_simplex(point_E: Tensor, floor: float) -> Tensor:
    """The nearest probabilities, in the Euclidean sense, of which none is below `floor`.

    Source: Held, Wolfe and Crowder 1974: subtract one threshold from all coordinates and cut at the floor.

    Args:
        point_E: any point, num_choices, float64.
        floor: below 1 / num_choices.
    """
    count = len(point_E)
    mass = 1.0 - count * floor
    shifted_E = point_E - floor
    sorted_E = shifted_E.sort(descending=True).values
    thresholds_E = (sorted_E.cumsum(0) - mass) / torch.arange(1, count + 1, dtype=point_E.dtype)
    last = int((sorted_E > thresholds_E).nonzero().max())
    return (shifted_E - thresholds_E[last]).clamp_min(0.0) + floor
