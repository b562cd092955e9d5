"""One arm of a comparison's recipe: which tensors train, and how."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from oblong.methods import METHODS, MethodOptions, parse_method
from oblong.records import Part
from oblong.tuning.adapters import AdapterRecipe

LearningRates = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class ArmRule(Part):
    """How one arm chooses its tensors (a rule, a random control of another arm, a Plan, an adapter) and trains them."""

    plan: str | None = Field(default=None, description="a Plan file; the rule's fields may then not be given")
    matches: str | None = Field(
        default=None, description="draw at random what matches this other arm; the rule below is then not used"
    )
    match: Literal["role_and_shape", "parameters"] = Field(
        default="role_and_shape", description="with `matches`: as many tensors of each role and shape, or parameters"
    )
    criterion: str = "kappa"
    order: Literal["lowest", "highest"] = "lowest"
    within: Literal["model", "role", "shape"] = "model"
    budget: str | None = Field(default=None, description="default: the comparison's budget")
    learning_rate: float | None = Field(default=None, gt=0, description="only this one; default: the comparison's")
    learning_rates: LearningRates | None = Field(default=None, description="a sweep of its own, such as LoRA's")
    method: SerializeAsAny[MethodOptions] | None = Field(
        default=None, description="what to do against forgetting; default: `train`'s, or plain fine-tuning"
    )
    adapter: AdapterRecipe | None = Field(
        default=None,
        description="what trains in place of chosen tensors (lora, full, lisa, osf) or beside the base (columns, "
        "experts); give no rule then",
    )
    redraw: bool = Field(
        default=True, description="a random arm draws other tensors for each seed, so that its luck is averaged"
    )

    @field_validator("method", mode="before")
    @classmethod
    def _check_method(cls, value: Any) -> Any:
        return None if value is None else parse_method(value)

    @model_validator(mode="after")
    def _check_adapter(self) -> Self:
        rules = sorted(self.model_fields_set & {"matches", "match", "criterion", "order", "within", "redraw"})
        if self.adapter is not None and rules:
            raise ValueError(
                f"an adapter names its tensors itself, so {', '.join(rules)} may not be given with it; for LoRA on "
                "tensors of your choice make a Plan with `oblong plan` and give its file as plan"
            )
        if self.adapter is not None and self.adapter.full is not None and self.plan is not None:
            raise ValueError("adapter: full trains every tensor, a plan some: give one of them")
        if self.adapter is not None and self.adapter.adds_modules and self.plan is not None:
            raise ValueError(f"adapter: {self.adapter.kind} trains no tensor of the base: leave the plan out")
        if self.adapter is not None and self.adapter.lora is None and self.budget is not None:
            raise ValueError(
                f"a budget sets the rank of lora; {self.adapter.kind} has none: leave the arm's budget out"
            )
        return self

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        if self.learning_rate is not None and self.learning_rates is not None:
            raise ValueError("give either learning_rate or learning_rates")
        return self


def needs_anchor(rule: ArmRule) -> bool:
    """Whether an arm's method, or its gate, cannot do without old data."""
    has_method = rule.method is not None and METHODS[rule.method.name].needs_anchor
    return has_method or (rule.adapter is not None and rule.adapter.needs_gate)
