"""The Comparison: arms x seeds, before and after, and what the differences are worth."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from oblong.records.base import Part, Provenance, Record, check_kind
from oblong.records.evaluation import Evaluation
from oblong.records.interval import Interval
from oblong.records.notebook import render_comparison_html
from oblong.records.plan import Plan
from oblong.records.run import Run

COMPARISON_KIND: Final = "oblong.comparison"
COMPARISON_SCHEMA_VERSION: Final = 1


class ArmRun(Part):
    """One arm with one seed."""

    arm: str
    seed: int
    run: Run
    evaluation: Evaluation


class Change(Part):
    """An arm's change of loss on one corpus, nats per token, positive = worse; pooled over its seeds."""

    arm: str
    corpus: str
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
