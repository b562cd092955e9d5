"""Half fine-tuning: a random half of the tensors is frozen, of each kind alike.

Source: Hui et al. 2025, "HFT: half fine-tuning for large language models" (ACL 2025): half of the matrices of
attention, of the feed-forward layers and of the normalisations, drawn anew in every stage. Kinds are roles here (q, k,
v, ...), and halves are rounded so that the whole comes out at the share asked for.
"""

from __future__ import annotations

from collections import defaultdict

import torch

from oblong.checkpoints.roles import classify_role
from oblong.methods.frozen_tensors import FrozenTensors
from oblong.methods.options import HalfFineTuningOptions
from oblong.methods.protocol import State


class HalfFineTuning(FrozenTensors):
    """Freezes a random share of the trained tensors of each role, drawn from the seed and the stage."""

    def __init__(self, options: HalfFineTuningOptions) -> None:
        super().__init__()
        self._options = options
        self._first_stage = 0
        self._drawn: tuple[int, frozenset[str]] | None = None

    def choose_frozen(self, step: int) -> frozenset[str]:
        """The frozen tensors of the step's stage."""
        stage = self._find_stage(step)
        if self._drawn is None or self._drawn[0] != stage:
            seed = self._training.seed * 1_000_003 + stage
            self._drawn = stage, draw_frozen(tuple(self._training.trained), self._options.strength, seed=seed)
        return self._drawn[1]

    def keep_for_next_task(self) -> State:
        """How many stages there were: each task begins a new one."""
        return {"num_stages": 1 + self._find_stage(max(0, self._step - 1))}

    def start_next_task(self, state: State) -> None:
        """Draw anew."""
        self._first_stage = state["num_stages"]

    def state_dict(self) -> State:
        """The number of steps, and of the stages of tasks before."""
        return {**super().state_dict(), "first_stage": self._first_stage}

    def load_state_dict(self, state: State) -> None:
        """Go on from a step."""
        super().load_state_dict(state)
        self._first_stage = state.get("first_stage", 0)

    def _find_stage(self, step: int) -> int:
        return self._first_stage + (step // self._options.stage_steps if self._options.stage_steps else 0)


def draw_frozen(names: tuple[str, ...], share: float, *, seed: int) -> frozenset[str]:
    """A random share of the tensors of each role; what rounding leaves over in one role is made up for in the next."""
    by_role: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_role[classify_role(name)].append(name)
    generator = torch.Generator().manual_seed(seed)
    frozen: list[str] = []
    num_seen = 0
    for role in sorted(by_role):
        members = by_role[role]
        num_seen += len(members)
        count = int(share * num_seen + 0.5) - len(frozen)
        order = torch.randperm(len(members), generator=generator)[:count].tolist()
        frozen += [members[index] for index in order]
    return frozenset(frozen)
