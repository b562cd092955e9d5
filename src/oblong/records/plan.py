"""The Plan: exactly which tensors may train, why these, and what they amount to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from oblong.records.base import Part, Provenance, Record, check_kind
from oblong.records.notebook import render_plan_html

PLAN_KIND: Final = "oblong.plan"
PLAN_SCHEMA_VERSION: Final = 1


class Budget(Part):
    """How much may train: the request as typed, and what it came to on this model."""

    text: str = Field(description="as given: `100` tensors, `10M` parameters, `5%` of all parameters")
    unit: str = Field(pattern="^(tensors|parameters)$")
    amount: int = Field(
        ge=0, description="tensors or parameters, after resolving a percentage; 0 where modules are added instead"
    )


class Rule(Part):
    """How the tensors were chosen; the same Scan and Rule give the same Plan."""

    criterion: str
    order: str = Field(pattern="^(lowest|highest)$")
    within: str = Field(pattern="^(model|role|shape)$")
    budget: Budget
    seed: int = 0
    match: str | None = Field(default=None, description="random controls: `parameters` or `role_and_shape`")
    include_ineligible: bool = False


class PlannedTensor(Part):
    """One tensor that will train."""

    name: str = Field(description="tensor name in the checkpoint, Hugging Face naming")
    role: str
    layer: int | None
    shape: tuple[int, ...]
    num_parameters: int = Field(gt=0)
    digest: str | None = Field(description="SHA-256 of its stored bytes when scanned")
    value: float | None = Field(description="the criterion's value")
    measures: Mapping[str, float | None] = Field(description="kappa, kappa_excess, entropy_gap, stable_rank")
    reason: str


class Totals(Part):
    """What the Plan amounts to."""

    num_tensors: int
    num_parameters: int
    share: float = Field(description="of the model's parameters, 0 to 1")
    by_role: Mapping[str, int] = Field(description="tensors chosen per role")


class Plan(Record):
    """A list of tensors to train; applying it is exact."""

    kind: Annotated[str, AfterValidator(check_kind(PLAN_KIND))] = PLAN_KIND
    schema_version: int = Field(default=PLAN_SCHEMA_VERSION, le=PLAN_SCHEMA_VERSION)
    name: str = Field(description="short name of the arm, such as kappa-lowest")
    model: str
    layout_digest: str
    scan_digest: str
    rule: Rule
    totals: Totals
    tensors: tuple[PlannedTensor, ...]
    notes: tuple[str, ...] = ()
    provenance: Provenance

    @property
    def tensor_names(self) -> frozenset[str]:
        """Names of the tensors that train."""
        return frozenset(tensor.name for tensor in self.tensors)

    def __repr__(self) -> str:
        return f"<Plan {self._describe()}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return render_plan_html(f"plan {self._describe()}", self)

    def _describe(self) -> str:
        totals = self.totals
        amount = f"{totals.num_tensors} tensors, {totals.num_parameters:,} parameters ({totals.share:.1%})"
        return f"{self.name} of {self.model}: {amount}"
