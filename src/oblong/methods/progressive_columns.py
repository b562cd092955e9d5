"""Progressive neural networks on a frozen language model, from Python: a column of its own for every task.

    model = ProgressiveColumns(base)
    model.add_column(seed=1)
    model(input_ids=..., task=1)

What a column is: `models.added_modules.columns`, which a recipe's `adapter: {columns: ...}` uses as well. The task must
be known when the model is used: `task=None` falls back to the base, and `last_column` says which column answered.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from oblong.errors import MethodError
from oblong.models.added_modules.attached import find_layers
from oblong.models.added_modules.columns import Columns, Lateral

__all__ = ["Lateral", "ProgressiveColumns", "find_layers"]


class ProgressiveColumns(nn.Module):
    """A frozen causal language model with a column per task.

    Args:
        base: the model; frozen in place.
        rank: bottleneck width of every column.

    Attributes:
        columns: task 1 is `columns[0]`; task 0 is the base.
        last_column: the task whose column answered the last call.
    """

    def __init__(self, base: Any, *, rank: int = 16) -> None:
        super().__init__()
        self.base = base
        self.last_column = 0
        self._rank = rank
        self._added = Columns(base)
        self._added.hook()

    @property
    def columns(self) -> nn.ModuleList:
        """The columns by task."""
        return self._added.columns

    def add_column(self, *, seed: int = 0) -> nn.ModuleList:
        """Freeze all columns and add one that trains; returns its layers."""
        self._added.add("task", rank=self._rank, seed=seed)
        column = self.columns[-1]
        assert isinstance(column, nn.ModuleList)
        return column

    def forward(self, input_ids: Tensor, task: int | None = None, **inputs: Any) -> Any:
        """Run one task's column, without a cache.

        Args:
            input_ids: batch x sequence_length.
            task: 0 is the base, 1 the first column; None where it is not known, which is answered by the base.
            inputs: further inputs of the base model.

        Raises:
            MethodError: no such task.
        """
        wanted = 0 if task is None else task
        if not 0 <= wanted <= len(self.columns):
            raise MethodError(f"there is no column for task {task}: tasks are 0 (the base) to {len(self.columns)}")
        self.last_column = wanted
        with self._added.telling(wanted):
            return self.base(input_ids=input_ids, use_cache=False, **inputs)
