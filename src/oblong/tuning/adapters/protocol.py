"""What an adapter is to the training loop: it trains, and it ends as weights of the base's own tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from transformers import TrainerCallback

from oblong.tuning.apply import AppliedPlan


class Adapter(Protocol):
    """A model that is ready to be tuned, by whatever parameters.

    Attributes:
        applied: for the loop: the model, and the parameters that train.
    """

    applied: AppliedPlan

    def describe(self) -> str | None:
        """One line for the Run: what trains in place of the Plan's tensors; None where they do themselves."""
        return None

    def list_callbacks(self) -> Sequence[TrainerCallback]:
        """What the loop must call."""
        return ()

    def save(self, directory: Path) -> None:
        """Write the adapter in a format of its own, where it has one; before `fold`."""
        return

    def fold(self) -> AppliedPlan:
        """Put what was learned into the Plan's tensors and leave the model with its own modules."""
        return self.applied


class WholeTensors(Adapter):
    """The limit case: the Plan's tensors themselves train."""

    def __init__(self, applied: AppliedPlan) -> None:
        self.applied = applied
