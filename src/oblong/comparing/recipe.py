"""What `oblong compare` is told: one YAML file, checked as a whole before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from oblong.corpora.questions import parse_suite
from oblong.errors import DataError, RecipeError
from oblong.methods import METHODS, MethodOptions, parse_method
from oblong.methods.recipe_fields import explain_unkept_modules
from oblong.records import Part
from oblong.records.recipe import check_recipe, load_recipe_data
from oblong.tuning.adapters import AdapterRecipe, explain_conflict
from oblong.tuning.recipe import TuneRecipe

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

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        if self.learning_rate is not None and self.learning_rates is not None:
            raise ValueError("give either learning_rate or learning_rates")
        return self


class Hopeless(Part):
    """When a run is not worth going on with."""

    margin: float = Field(
        gt=0, description="new-domain loss above the base's at an evaluation on the way, nats per token"
    )


class EvaluationCorpus(Part):
    """One held-out text."""

    data: str = Field(description="file, folder, Hub dataset or bundled:NAME")
    text_field: str = "text"
    new_domain: bool = Field(default=False, description="the domain that is being learned; the others are retention")
    documents: int | None = Field(default=None, gt=0, description="the first so many documents")
    characters: int | None = Field(default=None, gt=0, description="of each document, the first so many characters")


class CompareRecipe(Part):
    """Arms x learning rates x seeds on one model and one training text."""

    name: str
    model: str
    scan: str | None = Field(default=None, description="a finished Scan file; default: scan the model")
    output: str = Field(description="folder for runs, records and the report; an interrupted one is resumed")
    budget: str = Field(description="`10M` parameters, `100` tensors or `5%`: the same for every arm")
    arms: Mapping[str, ArmRule] = Field(min_length=1)
    control: str = Field(description="the arm that the others are compared with, usually a random one")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    learning_rates: LearningRates | None = Field(
        default=None, description="every arm is swept over them; default: the one of `train`"
    )
    evaluate_at: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(), description="steps after which a run is evaluated besides its last, for learning-forgetting curves"
    )
    hopeless: Hopeless | None = Field(default=None, description="end runs early that got worse at the new domain")
    gain: float | None = Field(
        default=None,
        gt=0,
        description="where arms are compared, nats per token learned; default: what all worth comparing reach",
    )
    noise_floor: int = Field(
        default=0, ge=0, le=8, description="evaluations of the base, with other batch sizes, for the noise floor"
    )
    train: Mapping[str, Any] = Field(description="text and hyper-parameters, as in a tuning recipe")
    evaluate: Mapping[str, EvaluationCorpus] = Field(min_length=1)
    suite: tuple[str, ...] = Field(
        default=(), description="questions for the base and for every run at its end: `small`, or tasks of lm-eval"
    )
    suite_limit: int | None = Field(default=None, gt=1, description="the first so many questions of each task")
    window: int = Field(default=512, gt=1, description="evaluation context, tokens")
    stride: int = Field(default=256, gt=0, description="tokens newly predicted per evaluation window")
    divergence: bool = Field(default=True, description="also measure KL(base || tuned): doubles the evaluation's time")
    state_divergence: bool = Field(
        default=False,
        description="measure it at `evaluate_at`, too, and compare arms by it; holds the base in memory, too",
    )
    workers: int | None = Field(default=None, gt=0, description="runs at the same time; default: one per core on a CPU")

    @field_validator("suite", mode="before")
    @classmethod
    def _check_suite(cls, value: Any) -> Any:
        try:
            return parse_suite(value) if isinstance(value, str) else value
        except DataError as error:
            raise ValueError(str(error)) from error

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
        for name, rates in self._iter_rates():
            if len(set(rates)) != len(rates):
                raise ValueError(f"{name}: the same learning rate is given twice")
        if self.evaluate_at and max(self.evaluate_at) >= (self.train.get("steps") or float("inf")):
            raise ValueError(
                f"evaluate_at: {max(self.evaluate_at)} is not before the last step, {self.train['steps']}, "
                "which is always evaluated"
            )
        if self.hopeless is not None and not self.evaluate_at:
            raise ValueError("hopeless: is judged at evaluations on the way, so give evaluate_at")
        if self.state_divergence and not self.divergence:
            raise ValueError("state_divergence: is the divergence on the way, so leave divergence on")
        if self.noise_floor == 1:
            raise ValueError("noise_floor: needs at least 2 evaluations, better 5; 0 for none")
        if not any(corpus.new_domain for corpus in self.evaluate.values()):
            raise ValueError("evaluate: mark the domain that is being learned with `new_domain: true`")
        anchorless = [name for name, rule in self.arms.items() if needs_anchor(rule) and not self.train.get("anchor")]
        if anchorless:
            raise ValueError(
                f"train: give anchor, the old data that the method of {', '.join(anchorless)} needs, for example "
                "`anchor: self_generated`"
            )
        if self.stride > self.window:
            raise ValueError(f"stride: {self.stride} is larger than the window of {self.window} tokens")
        return self

    @model_validator(mode="after")
    def _check_adapters(self) -> Self:
        shared = self.train.get("method")
        for name, rule in self.arms.items():
            method = rule.method if shared is None or rule.method is not None else parse_method(shared)
            conflict = explain_conflict(rule.adapter, method) or explain_unkept_modules(method)
            if conflict is not None:
                raise ValueError(f"arms.{name}: {conflict}")
        return self

    def _iter_rates(self) -> Iterator[tuple[str, tuple[float, ...]]]:
        yield "learning_rates", self.learning_rates or ()
        for name, rule in self.arms.items():
            yield f"arms.{name}.learning_rates", rule.learning_rates or ()

    def plan_files(self) -> tuple[Path, ...]:
        """The Plan files that arms name."""
        return tuple(Path(rule.plan) for rule in self.arms.values() if rule.plan)


def needs_anchor(rule: ArmRule) -> bool:
    """Whether an arm's method cannot do without old data."""
    return rule.method is not None and METHODS[rule.method.name].needs_anchor


def needs_old_data(recipe: CompareRecipe, arm: str) -> bool:
    """Whether an arm sees old data that the base did not generate itself: it is then not data-free."""
    rule = recipe.arms[arm]
    method = {} if rule.method is None else {"method": rule.method.model_dump(mode="json")}
    return not TuneRecipe.model_validate({**recipe.train, **method, **TUNING_PLACEHOLDERS}).is_data_free


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
