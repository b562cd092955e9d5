"""What `oblong compare` is told: one YAML file, checked as a whole before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from oblong.errors import RecipeError
from oblong.methods import METHODS, MethodOptions, parse_method
from oblong.records import Part
from oblong.records.recipe import check_recipe, load_recipe_data
from oblong.tuning.adapters import AdapterRecipe, explain_conflict
from oblong.tuning.recipe import TuneRecipe


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
    learning_rate: float | None = Field(default=None, gt=0, description="default: the comparison's")
    method: SerializeAsAny[MethodOptions] | None = Field(
        default=None, description="what to do against forgetting; default: `train`'s, or plain fine-tuning"
    )
    adapter: AdapterRecipe | None = Field(
        default=None,
        description="what trains in place of chosen tensors: lora, full, lisa, osf; give no rule then",
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
        if self.adapter is not None and self.adapter.lora is None and self.budget is not None:
            raise ValueError(
                f"a budget sets the rank of lora; {self.adapter.kind} has none: leave the arm's budget out"
            )
        return self


class EvaluationCorpus(Part):
    """One held-out text."""

    data: str = Field(description="file, folder, Hub dataset or bundled:NAME")
    text_field: str = "text"
    new_domain: bool = Field(default=False, description="the domain that is being learned; the others are retention")
    documents: int | None = Field(default=None, gt=0, description="the first so many documents")
    characters: int | None = Field(default=None, gt=0, description="of each document, the first so many characters")


class CompareRecipe(Part):
    """Arms x seeds on one model and one training text."""

    name: str
    model: str
    scan: str | None = Field(default=None, description="a finished Scan file; default: scan the model")
    output: str = Field(description="folder for runs, records and the report; an interrupted one is resumed")
    budget: str = Field(description="`10M` parameters, `100` tensors or `5%`: the same for every arm")
    arms: Mapping[str, ArmRule] = Field(min_length=1)
    control: str = Field(description="the arm that the others are compared with, usually a random one")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    train: Mapping[str, Any] = Field(description="text and hyper-parameters, as in a tuning recipe")
    evaluate: Mapping[str, EvaluationCorpus] = Field(min_length=1)
    window: int = Field(default=512, gt=1, description="evaluation context, tokens")
    stride: int = Field(default=256, gt=0, description="tokens newly predicted per evaluation window")
    divergence: bool = Field(default=True, description="also measure KL(base || tuned): doubles the evaluation's time")
    workers: int | None = Field(default=None, gt=0, description="runs at the same time; default: one per core on a CPU")

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        taken = [name for name in (*TUNING_PLACEHOLDERS, "adapter", "seed") if name in self.train]
        if taken:
            raise ValueError(f"train: {', '.join(taken)} is given by the comparison itself, leave it out")
        if self.control not in self.arms:
            raise ValueError(f"control: {self.control!r} is none of the arms {', '.join(self.arms)}")
        for name, rule in self.arms.items():
            if rule.matches is not None and (rule.matches not in self.arms or self.arms[rule.matches].matches):
                raise ValueError(f"arms.{name}.matches: {rule.matches!r} is no arm that chooses by a rule or a plan")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: the same seed is given twice")
        if not any(corpus.new_domain for corpus in self.evaluate.values()):
            raise ValueError("evaluate: mark the domain that is being learned with `new_domain: true`")
        anchorless = [name for name, rule in self.arms.items() if needs_anchor(rule) and not self.train.get("anchor")]
        if anchorless:
            raise ValueError(f"train: give anchor, the old data that the method of {', '.join(anchorless)} needs")
        if self.stride > self.window:
            raise ValueError(f"stride: {self.stride} is larger than the window of {self.window} tokens")
        return self

    @model_validator(mode="after")
    def _check_adapters(self) -> Self:
        shared = self.train.get("method")
        for name, rule in self.arms.items():
            method = rule.method if shared is None or rule.method is not None else parse_method(shared)
            if (conflict := explain_conflict(rule.adapter, method)) is not None:
                raise ValueError(f"arms.{name}: {conflict}")
        return self

    def plan_files(self) -> tuple[Path, ...]:
        """The Plan files that arms name."""
        return tuple(Path(rule.plan) for rule in self.arms.values() if rule.plan)


def needs_anchor(rule: ArmRule) -> bool:
    """Whether an arm's method cannot do without old data."""
    return rule.method is not None and METHODS[rule.method.name].needs_anchor


TUNING_PLACEHOLDERS: dict[str, Any] = {"model": "-", "plan": "-", "output": "-"}
"""What the runner fills in for each run; the rest of a tuning recipe is the comparison's `train`."""


def read_compare_recipe(path: Path) -> CompareRecipe:
    """Read and check a comparison's recipe, its `train` part included.

    Raises:
        RecipeError: unreadable or with mistakes; all of them are listed, each with its place.
    """
    return build_compare_recipe(load_recipe_data(path), path)


def build_compare_recipe(data: Mapping[str, Any], path: Path) -> CompareRecipe:
    """Check parsed data; the mistakes of both halves are reported together.

    Raises:
        RecipeError: with mistakes; all of them are listed, each with its place.
    """
    problems: list[str] = []
    for cls, part, prefix in ((CompareRecipe, data, ""), (TuneRecipe, _complete(data.get("train")), "train.")):
        try:
            check_recipe(cls, part, path)
        except RecipeError as error:
            problems += [f"{prefix}{problem}" for problem in error.problems]
    if problems:
        raise RecipeError(path, problems)
    return CompareRecipe.model_validate(data)


def _complete(train: Any) -> Any:
    """The `train` part as a tuning recipe; what the comparison itself decides may not be given there."""
    return {**train, **TUNING_PLACEHOLDERS} if isinstance(train, Mapping) else TUNING_PLACEHOLDERS
