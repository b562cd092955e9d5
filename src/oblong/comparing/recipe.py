"""What `oblong compare` is told: one YAML file, checked as a whole before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, field_validator, model_validator

from oblong.comparing.arms import ArmRule, LearningRates, needs_anchor
from oblong.comparing.texts import EvaluationCorpus, RelearnRule, TaskRule
from oblong.corpora.questions import parse_suite
from oblong.errors import DataError, RecipeError
from oblong.methods import parse_method
from oblong.methods.recipe_fields import explain_unkept_modules
from oblong.records import Part
from oblong.records.recipe import check_recipe, load_recipe_data
from oblong.tuning.adapters import explain_conflict
from oblong.tuning.recipe import TuneRecipe, merge_overrides


class Hopeless(Part):
    """When a run is not worth going on with."""

    margin: float = Field(
        gt=0, description="new-domain loss above the base's at an evaluation on the way, nats per token"
    )


class CompareRecipe(Part):
    """Arms x learning rates x seeds on one model and one training text, or on a sequence of tasks."""

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
    tasks: tuple[TaskRule, ...] = Field(
        default=(), description="learned one after the other in every run, in place of `train`'s text and a new domain"
    )
    evaluate: Mapping[str, EvaluationCorpus] = Field(
        default={}, description="held-out texts by name: the new domain and what should be kept; of tasks, the latter"
    )
    relearn: RelearnRule | None = Field(
        default=None, description="a few steps on old text after each run, to tell spurious forgetting from real"
    )
    suite: tuple[str, ...] = Field(
        default=(),
        description="questions for the base and for every run at its end: `small`, tasks or task files of lm-eval",
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
        taken = [name for name in (*TUNING_PLACEHOLDERS, *GIVEN_BY_THE_RUNNER) if name in self.train]
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
        if self.hopeless is not None and self.tasks:
            raise ValueError("hopeless: is judged at steps on the way, and a sequence is evaluated after tasks alone")
        if self.hopeless is not None and not self.evaluate_at:
            raise ValueError("hopeless: is judged at evaluations on the way, so give evaluate_at")
        if self.state_divergence and not self.divergence:
            raise ValueError("state_divergence: is the divergence on the way, so leave divergence on")
        if self.noise_floor == 1:
            raise ValueError("noise_floor: needs at least 2 evaluations, better 5; 0 for none")
        if not any(corpus.new_domain for corpus in self.corpora.values()):
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
    def _check_tasks(self) -> Self:
        if not self.tasks:
            return self
        if len(self.tasks) == 1:
            raise ValueError("tasks: one task is no sequence: name a second, or give train.data and evaluate instead")
        if "data" in self.train:
            raise ValueError("tasks: each names its own text, so train.data may not be given with them")
        marked = [name for name, corpus in self.evaluate.items() if corpus.new_domain]
        if marked:
            raise ValueError(
                f"evaluate: {', '.join(marked)}: the texts of the tasks are the new domains: leave new_domain out"
            )
        if self.evaluate_at:
            raise ValueError("evaluate_at: a sequence is evaluated after every task: leave it out")
        names = [task.name for task in self.tasks]
        taken = sorted({name for name in names if names.count(name) > 1 or name in self.evaluate})
        if taken:
            raise ValueError(f"tasks: {', '.join(taken)} names two texts: give every task and held-out text its own")
        return self

    @model_validator(mode="after")
    def _check_relearn(self) -> Self:
        unknown = [name for name in (self.relearn and self.relearn.texts) or () if name not in self.corpora]
        if unknown:
            raise ValueError(f"relearn.texts: {', '.join(unknown)} is none of {', '.join(self.corpora)}")
        if self.relearn is not None and not self.relearned_texts:
            raise ValueError("relearn: there is no retention text in evaluate that could have been forgotten: add one")
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

    @property
    def corpora(self) -> Mapping[str, EvaluationCorpus]:
        """Every held-out text by name, those of tasks first."""
        tasks = {task.name: task.evaluate.model_copy(update={"new_domain": True}) for task in self.tasks}
        return {**tasks, **self.evaluate}

    @property
    def relearned_texts(self) -> tuple[str, ...]:
        """The held-out texts that are measured again after relearning; none without it."""
        if self.relearn is None:
            return ()
        return self.relearn.texts or tuple(name for name, corpus in self.evaluate.items() if not corpus.new_domain)

    def list_trainings(self) -> tuple[Mapping[str, Any], ...]:
        """What each run trains, one after the other: `train`, or `train` with each task's text and steps."""
        if not self.tasks:
            return (self.train,)
        return tuple(complete_train(self.train, task.data.model_dump(mode="json"), task.steps) for task in self.tasks)

    def _iter_rates(self) -> Iterator[tuple[str, tuple[float, ...]]]:
        yield "learning_rates", self.learning_rates or ()
        for name, rule in self.arms.items():
            yield f"arms.{name}.learning_rates", rule.learning_rates or ()

    def plan_files(self) -> tuple[Path, ...]:
        """The Plan files that arms name."""
        return tuple(Path(rule.plan) for rule in self.arms.values() if rule.plan)


def needs_old_data(recipe: CompareRecipe, arm: str) -> bool:
    """Whether an arm sees old data that the base did not generate itself: it is then not data-free."""
    rule = recipe.arms[arm]
    method = {} if rule.method is None else {"method": rule.method.model_dump(mode="json")}
    beside = {"adapter": rule.adapter} if rule.adapter is not None and rule.adapter.adds_modules else {}
    last = {**recipe.list_trainings()[-1], **method, **beside, **TUNING_PLACEHOLDERS}
    last["after"] = "-" if recipe.tasks else None
    return not TuneRecipe.model_validate(last).is_data_free


def complete_train(train: Mapping[str, Any], data: Any, steps: int | None) -> dict[str, Any]:
    """`train` with a task's text, and its steps where it has its own."""
    return merge_overrides(train, {"data": data, "steps": steps})


TUNING_PLACEHOLDERS: dict[str, Any] = {"model": "-", "plan": "-", "output": "-"}
"""What the runner fills in for each run; the rest of a tuning recipe is the comparison's `train`."""


GIVEN_BY_THE_RUNNER: Final = ("adapter", "seed", "after", "keep_for_next")
"""Further fields of a tuning recipe that an arm, or the runner, decides."""


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
    parts: list[tuple[type[Part], Any]] = [(CompareRecipe, data), *((TuneRecipe, part) for part in _iter_trains(data))]
    problems: dict[str, None] = {}  # each once: most mistakes of `train` are found again with every task
    for cls, part in parts:
        try:
            check_recipe(cls, part, path)
        except RecipeError as error:
            prefix = "train." if cls is TuneRecipe else ""
            problems |= dict.fromkeys(f"{prefix}{problem}" for problem in error.problems)
    if problems:
        raise RecipeError(path, list(problems))
    return CompareRecipe.model_validate(data)


def _iter_trains(data: Mapping[str, Any]) -> Iterator[Any]:
    """The `train` part as a tuning recipe, once for each task that can be read as one."""
    train, tasks = data.get("train"), data.get("tasks")
    readable = [task for task in tasks if isinstance(task, Mapping)] if isinstance(tasks, list) else []
    if not readable or not isinstance(train, Mapping):
        yield _complete(train)
        return
    for task in readable:
        steps = task.get("steps")
        yield _complete(complete_train(train, task.get("data"), steps if isinstance(steps, int) else None))


def _complete(train: Any) -> Any:
    """The `train` part as a tuning recipe; what the comparison itself decides may not be given there."""
    return {**train, **TUNING_PLACEHOLDERS} if isinstance(train, Mapping) else TUNING_PLACEHOLDERS
