"""The cells of a comparison's matrix: which arm is trained at which learning rate with which seed, and where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oblong.comparing.recipe import CompareRecipe
from oblong.tuning.recipe import TuneRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run.

    Attributes:
        arm: its name.
        learning_rate: peak.
        seed: of the text's order, and of a redrawn random choice.
        rate_name: of the learning rate in folders and labels; None where the arm has no list of them.
    """

    arm: str
    learning_rate: float
    seed: int
    rate_name: str | None

    def locate(self, output: Path) -> Path:
        """The run's folder: `ARM/seed-0`, or `ARM/lr-2e-04/seed-0` where there is a list of learning rates.

        A list of one has the folder of a sweep too, so that a sweep can be made longer and keeps what it has.
        """
        arm = output / self.arm
        return (arm if self.rate_name is None else arm / f"lr-{self.rate_name}") / f"seed-{self.seed}"


def iter_cells(recipe: CompareRecipe) -> Iterator[Cell]:
    """Every run of a comparison; seeds go round first, so that an interrupted one has whole arms to show."""
    for arm in recipe.arms:
        rates, is_sweep = list_learning_rates(recipe, arm)
        for rate in rates:
            for seed in recipe.seeds:
                yield Cell(arm=arm, learning_rate=rate, seed=seed, rate_name=name_rate(rate) if is_sweep else None)


def list_learning_rates(recipe: CompareRecipe, arm: str) -> tuple[tuple[float, ...], bool]:
    """An arm's learning rates, rising, and whether they were given as a list."""
    rule = recipe.arms[arm]
    if rule.learning_rate is not None:
        return (rule.learning_rate,), False
    listed = rule.learning_rates or recipe.learning_rates
    if listed is not None:
        return tuple(sorted(listed)), True
    default = TuneRecipe.model_fields["learning_rate"].default
    return (float(recipe.train.get("learning_rate", default)),), False


def name_rate(learning_rate: float) -> str:
    """`2e-04`: the shortest name that no other learning rate has."""
    return np.format_float_scientific(learning_rate, trim="-", exp_digits=2)
