"""Questions with right answers: what a model answered, and what became of every answer after tuning."""

from __future__ import annotations

from pydantic import Field

from oblong.records.base import Part
from oblong.records.interval import Interval


class TaskScore(Part):
    """One task's questions, answered by one model."""

    metric: str = Field(description="how an answer counts as right: acc, acc_norm, exact_match, ...")
    digest: str = Field(description="of the questions: only answers to the same questions can be compared")
    chance: float | None = Field(default=None, ge=0, le=1, description="accuracy of guessing; null where it is unknown")
    right: tuple[bool, ...] = Field(min_length=1, description="per question, in order")

    @property
    def num_right(self) -> int:
        """Questions answered right."""
        return sum(self.right)

    @property
    def accuracy(self) -> float:
        """Share of questions answered right, 0 to 1."""
        return self.num_right / len(self.right)


class TaskChange(Part):
    """What became of one task's answers, pooled over the seeds of an arm; counts are answers."""

    arm: str
    task: str = Field(description="name of the task; `all tasks` for all of them together")
    num_seeds: int = Field(ge=1)
    num_kept: int = Field(ge=0, description="right before and after")
    num_lost: int = Field(ge=0, description="right before, wrong after")
    num_gained: int = Field(ge=0, description="wrong before, right after")
    num_missed: int = Field(ge=0, description="wrong before and after")
    difference: Interval | None = Field(
        description="accuracy after - before, clustered by question; null where no answer changed"
    )
    p_value: float = Field(
        ge=0, le=1, description="of equal accuracy: exact McNemar for one seed, by bootstrap over questions for several"
    )
    adjusted_p_value: float | None = Field(
        default=None, ge=0, le=1, description="by Holm over the tasks of an arm; null for all tasks together"
    )

    @property
    def num_answers(self) -> int:
        """Questions times seeds."""
        return self.num_kept + self.num_lost + self.num_gained + self.num_missed

    @property
    def before(self) -> float:
        """Accuracy before, 0 to 1."""
        return (self.num_kept + self.num_lost) / self.num_answers

    @property
    def after(self) -> float:
        """Accuracy after, 0 to 1; the mean over the seeds."""
        return (self.num_kept + self.num_gained) / self.num_answers
