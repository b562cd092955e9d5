"""What an adapter is to the training loop: it trains, and it ends as weights of the base's own tensors.

Columns and experts end beside them instead: nothing is folded, and the delta holds modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import TrainerCallback

from oblong.methods import AnchorData
from oblong.models.added_modules import ModuleTensors
from oblong.models.stored_tensors import StoredTensors
from oblong.tuning.apply import AppliedPlan
from oblong.tuning.observing import as_stored


class Adapter(Protocol):
    """A model that is ready to be tuned, by whatever parameters.

    Attributes:
        applied: for the loop: the model, and the parameters that train.
    """

    applied: AppliedPlan

    def describe(self) -> str | None:
        """One line for the Run: what trains in place of the Plan's tensors; None where they do themselves."""
        return None

    def start(self, blocks_NT: Tensor, anchor: AnchorData | None) -> None:
        """Before the first step, also before a resume: see what is going to be learned, and the old data.

        Args:
            blocks_NT: the training text, num_blocks x sequence_length.
            anchor: old data, if there is any.
        """
        return

    def list_callbacks(self) -> Sequence[TrainerCallback]:
        """What the loop must call."""
        return ()

    def save(self, directory: Path) -> None:
        """Write the adapter in a format of its own, where it has one; before `fold`."""
        return

    def as_finished(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Inside the block the model is what a run that ended now would give back; afterwards training can go on.

        Args:
            dtype: of the frozen weights.
        """
        return nullcontext()

    def fold(self) -> AppliedPlan:
        """Put what was learned into the Plan's tensors and leave the model with its own modules."""
        return self.applied

    def describe_modules(self) -> ModuleTensors | None:
        """After `fold`: what stays beside the base and belongs into the delta; None where all is in the tensors."""
        return None


class WholeTensors(Adapter):
    """The limit case: the Plan's tensors themselves train."""

    def __init__(self, applied: AppliedPlan, stored: StoredTensors) -> None:
        self.applied = applied
        self._stored = stored

    def as_finished(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Inside the block the tensors are rounded as a delta checkpoint would hold them."""
        return as_stored(self.applied, self._stored, dtype)
