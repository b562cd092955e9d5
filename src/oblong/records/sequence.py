"""A sequence of tasks: the losses after each of them, and the measures of continual learning.

R[i, j] = base loss on task j - loss on task j after tasks 0 ... i, nats per token: what was gained, so that higher is
better, and 0 is the base.
"""

from __future__ import annotations

from pydantic import Field

from oblong.records.base import Part
from oblong.records.interval import Interval

Matrix = tuple[tuple[float, ...], ...]


class SequenceMeasure(Part):
    """One measure of an arm, mean over its seeds, nats per token."""

    value: Interval
    against_control: Interval | None = Field(default=None, description="minus the control's, paired; null for itself")
    adjusted_p_value: float | None = Field(default=None, ge=0, le=1, description="of that, by Holm over the arms")


class SequenceMeasures(Part):
    """What R comes to; definitions in docs/reference/statistics.md."""

    average: SequenceMeasure = Field(description="mean gain over all tasks at the end; higher is better")
    backward_transfer: SequenceMeasure = Field(description="what later tasks did to earlier ones; negative: forgotten")
    forward_transfer: SequenceMeasure = Field(description="what earlier tasks did for later ones; positive: helped")
    forgetting: SequenceMeasure = Field(description="fall from the best that a task ever was; positive: forgotten")


class ArmSequence(Part):
    """One arm's way through the tasks."""

    arm: str
    told: bool = Field(
        default=False,
        description="whether the model was told which of the learned tasks a text is of; texts of tasks that it has "
        "not learned yet, and retention texts, have no task to tell: they are read without",
    )
    learning_rate: float | None = Field(default=None, gt=0, description="of a sweep, the one that learned most")
    seeds: tuple[int, ...]
    losses: tuple[Matrix, ...] = Field(
        description="by seed: row i after task i + 1, columns as in `TaskSequence.texts`; nats per token. A sequence "
        "that broke off has fewer rows"
    )
    measures: SequenceMeasures | None = Field(description="null where a seed's sequence broke off")


class TaskSequence(Part):
    """All arms on one sequence of tasks."""

    tasks: tuple[str, ...] = Field(min_length=2, description="in the order of learning")
    kept: tuple[str, ...] = Field(description="retention texts")
    base: tuple[float, ...] = Field(description="losses of the base, columns as in `texts`, nats per token")
    arms: tuple[ArmSequence, ...] = Field(description="in recipe order; one that can be told the task is there twice")

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of the matrices: tasks, then retention texts."""
        return (*self.tasks, *self.kept)
