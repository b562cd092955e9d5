"""The Comparison: arms x seeds, before and after, and what the differences are worth."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from oblong.records.base import Part, Provenance, Record, check_kind
from oblong.records.evaluation import Evaluation
from oblong.records.interval import Interval
from oblong.records.notebook import render_comparison_html
from oblong.records.plan import Plan
from oblong.records.relearning import RelearnedText, RelearningProbe
from oblong.records.run import Run
from oblong.records.sequence import TaskSequence
from oblong.records.suite import TaskChange

COMPARISON_KIND: Final = "oblong.comparison"
COMPARISON_SCHEMA_VERSION: Final = 2


class EvaluatedState(Part):
    """A state of a training that was evaluated."""

    step: int = Field(ge=0, description="optimizer steps done; 0 is the base")
    evaluation: Evaluation = Field(description="with KL(base || model) where the recipe asks for it at every state")


class TaskRun(Part):
    """One task of a run's sequence."""

    task: str
    run: Run
    evaluation: Evaluation | None = Field(description="after it; null if its predictions were not finite numbers")
    told: Evaluation | None = Field(
        default=None, description="of the learned tasks' texts, the model being told which task each is of"
    )


class ArmRun(Part):
    """One arm with one learning rate and one seed."""

    arm: str
    seed: int
    learning_rate: float | None = Field(default=None, gt=0, description="peak; null in records of version 1")
    run: Run = Field(description="of a sequence, that of the last task that was learned")
    evaluation: Evaluation = Field(description="of the last state whose predictions are finite numbers")
    states: tuple[EvaluatedState, ...] = Field(
        default=(), description="by rising step, the last one is `evaluation`; empty in records of version 1"
    )
    stopped: str | None = Field(default=None, description="why the run ended before its last step; null if it did not")
    tasks: tuple[TaskRun, ...] = Field(default=(), description="of a sequence, in the order of learning")
    relearning: RelearningProbe | None = Field(default=None, description="null where nothing was relearned")

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every training of it: one, or one for each task of a sequence."""
        return tuple(task.run for task in self.tasks) or (self.run,)


class Change(Part):
    """An arm's change of loss on one corpus, nats per token, positive = worse; pooled over its seeds."""

    arm: str
    corpus: str
    learning_rate: float | None = Field(
        default=None, gt=0, description="of a sweep, the one whose last state learned most; null in version 1"
    )
    before: float
    after: float
    difference: Interval = Field(description="after - before, paired over documents, clustered by document")
    against_control: Interval | None = Field(
        default=None, description="this arm's after - the control's after, paired over documents and seeds"
    )
    adjusted_p_value: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="of against_control, by Holm over the arms on this corpus: below 0.05 is significant",
    )


class Reach(StrEnum):
    """Whether an arm's curves reach a gain."""

    REACHED = "reached"
    UNSURE = "unsure"
    NOT_REACHED = "not_reached"


class AtGain(Part):
    """Forgetting at a matched gain: of an arm, or of an arm minus the control; nats per token, positive = worse."""

    gain: float = Field(gt=0, description="fall of the loss on the new domain, nats per token")
    reach: Reach = Field(description="`unsure`: too close to the end of a curve for an interval")
    share_reached: float = Field(ge=0, le=1, description="share of the resamples that reach the gain")
    forgetting: Interval | None = Field(default=None, description="null unless reached")
    adjusted_p_value: float | None = Field(default=None, ge=0, le=1, description="of a difference, by Holm over arms")
    settings: tuple[str, ...] = Field(default=(), description="the curve (learning rate) that stands for each arm")


class ReferencePoint(Part):
    """The corner that hypervolumes are measured from; volumes of different corners cannot be compared."""

    name: str = Field(description="for tables and captions, such as `no gain at 0.1 nats of forgetting`")
    gain: float = Field(description="what does not exceed it does not count")
    forgetting: float = Field(description="what is not below it does not count")


class LearningForgettingCurve(Part):
    """One learning rate of an arm along its training, means over seeds; the base, (0, 0), is not among the points."""

    setting: str = Field(description="name of the learning rate, as in `AtGain.settings`")
    learning_rate: float = Field(gt=0)
    steps: tuple[int, ...] = Field(description="of the states that every seed has")
    gains: tuple[float, ...] = Field(description="fall of the loss on the new domain at each, nats per token")
    forgettings: tuple[float, ...] = Field(description="rise of the loss on the retention text, nats per token")


class ArmRetention(Part):
    """What an arm forgot of one retention text on its way."""

    arm: str
    curves: tuple[LearningForgettingCurve, ...] = Field(description="by rising learning rate")
    at_gain: AtGain | None = Field(description="forgetting at the common gain; null where there is no such gain")
    against_control: AtGain | None = Field(description="that minus the control's; null for the control itself")
    front: tuple[tuple[float, float], ...] = Field(
        description="(gain, forgetting) of the states that no other state of this arm beats, by rising gain"
    )
    hypervolume: float = Field(ge=0, description="area between the arm's front and the reference, (nats per token)^2")


RetentionMeasure = Literal["loss", "kl"]


class Retention(Part):
    """All arms on one retention text, compared where they have learned equally much."""

    corpora: tuple[str, ...] = Field(
        min_length=1, description="one retention corpus, or all of them, each weighing the same"
    )
    measure: RetentionMeasure = Field(
        default="loss", description="forgetting is the rise of the loss, or KL(base || model), nats per token"
    )
    gain: float | None = Field(
        default=None,
        gt=0,
        description="at which arms are compared, nats per token; null if the control learned nothing",
    )
    reference: ReferencePoint
    arms: tuple[ArmRetention, ...] = Field(description="in recipe order; no entry for one without a curve")

    @property
    def is_pooled(self) -> bool:
        """Whether it stands for several corpora."""
        return len(self.corpora) > 1


class Comparison(Record):
    """An experiment matrix with its results."""

    kind: Annotated[str, AfterValidator(check_kind(COMPARISON_KIND))] = COMPARISON_KIND
    schema_version: int = Field(default=COMPARISON_SCHEMA_VERSION, le=COMPARISON_SCHEMA_VERSION)
    name: str
    model: str
    control: str = Field(description="the arm that the others are compared with")
    recipe: Mapping[str, Any]
    plans: Mapping[str, Plan] = Field(description="one per arm; for redrawn random arms, that of the first seed")
    base: Evaluation
    runs: tuple[ArmRun, ...]
    changes: tuple[Change, ...]
    answers: tuple[TaskChange, ...] = Field(
        default=(), description="what became of the base's answers to the suite, by arm and task; empty without a suite"
    )
    retention: tuple[Retention, ...] = Field(
        default=(),
        description="of a sweep: all retention corpora pooled first, if there are several, then each by itself",
    )
    sequence: TaskSequence | None = Field(default=None, description="of a sequence of tasks; null without one")
    relearning: tuple[RelearnedText, ...] = Field(
        default=(), description="by text and arm, what came back after a few steps on old text; empty without"
    )
    data_free: Mapping[str, bool] = Field(
        default={}, description="by arm: whether it used no old data but what the base itself generates"
    )
    noise_floors: Mapping[str, float] = Field(
        default={}, description="by corpus: two evaluations of one model differ by less in 95 %, nats per token"
    )
    provenance: Provenance

    @property
    def arms(self) -> tuple[str, ...]:
        """Arm names, in recipe order."""
        return tuple(dict.fromkeys(run.arm for run in self.runs))

    def __repr__(self) -> str:
        return f"<Comparison {self._describe()}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return render_comparison_html(f"comparison {self._describe()}", self)

    def _describe(self) -> str:
        seeds = len({run.seed for run in self.runs})
        return f"{self.name} on {self.model}: {', '.join(self.arms)}; {seeds} seed{'s' if seeds != 1 else ''}"
