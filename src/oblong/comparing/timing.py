"""What a run takes: a few timed steps of every kind of arm, and parts of an evaluation and of a suite."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oblong.comparing.compare import choose_dtype, make_base_job
from oblong.comparing.evaluating import read_corpora
from oblong.comparing.jobs import Job
from oblong.comparing.recipe import TUNING_PLACEHOLDERS, CompareRecipe
from oblong.corpora import Documents
from oblong.corpora.questions import BUNDLED_TASKS, expand_suite, read_questions
from oblong.errors import MethodError
from oblong.evaluation.evaluate import Corpus, load_on_device, score_corpora
from oblong.evaluation.suite import answer_task
from oblong.methods import METHODS, SELF_GENERATED, AnchorOptions, build_anchor
from oblong.models.causal_lm import LoadedModel
from oblong.records import Plan
from oblong.tuning.recipe import TuneRecipe
from oblong.tuning.run import tune, use_threads

TIMED_STEPS: Final = 3  # the first is slower and does not count
TIMED_DOCUMENTS: Final = 2
TIMED_QUESTIONS: Final = 8  # of each task
TIMED_BLOCKS: Final = 8  # of old data

OnTiming = Callable[[str], None]
"""Called with the name of what is timed next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmTiming:
    """What training one arm takes, seconds.

    Attributes:
        seconds_per_step: of an optimizer step.
        seconds_before: loading, old data, and what the method measures before its first step.
        num_trainable: parameters that train.
    """

    seconds_per_step: float
    seconds_before: float
    num_trainable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTiming:
    """What every run pays beside its steps, seconds.

    Attributes:
        seconds_to_load: the model.
        seconds_per_evaluation: all texts once.
        seconds_per_suite: all bundled questions of the suite.
        seconds_per_anchor: generating the old data.
    """

    seconds_to_load: float
    seconds_per_evaluation: float
    seconds_per_suite: float
    seconds_per_anchor: float


def time_arms(
    recipe: CompareRecipe,
    jobs: Sequence[Job],
    plans: Mapping[tuple[str, int], Plan],
    beside: EvaluationTiming,
    *,
    on_timing: OnTiming,
) -> dict[str, ArmTiming]:
    """Time one job of every kind of arm; arms that differ in which tensors they choose only are of one kind.

    Args:
        recipe: what would be compared.
        jobs: of the arms to be timed, at least one of each.
        plans: by arm and seed.
        beside: what the arms pay beside their steps.
        on_timing: told the arm that is timed.

    Raises:
        MethodError: an arm's method does not fit in memory.
    """
    kinds: dict[str, ArmTiming] = {}
    by_arm: dict[str, ArmTiming] = {}
    for job in jobs:
        if job.arm in by_arm:
            continue
        kind = describe_kind(recipe, job)
        if kind not in kinds:
            on_timing(job.arm)
            kinds[kind] = time_arm(job, plans[job.arm, job.seed], beside)
        by_arm[job.arm] = kinds[kind]
    return by_arm


def describe_kind(recipe: CompareRecipe, job: Job) -> str:
    """What decides the time of a step: how the arm trains, and how much."""
    rule = recipe.arms[job.arm]
    drawn_for = rule if rule.matches is None else recipe.arms[rule.matches]
    fields = job.tune or {}
    return repr((fields.get("method"), fields.get("adapter"), drawn_for.plan, drawn_for.budget or recipe.budget))


def time_arm(job: Job, plan: Plan, beside: EvaluationTiming) -> ArmTiming:
    """A few steps of a job with its method, on a little old data."""
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        recipe = shorten_training(job, plan, Path(folder))
        started = time.perf_counter()
        try:
            run = tune(recipe, on_progress=lambda step, total, loss: ends.append(time.perf_counter()))
        except MethodError as error:
            raise MethodError(f"arms.{job.arm}: {error}") from error
    per_step = (ends[-1] - ends[0]) / (len(ends) - 1)
    measuring = max(0.0, ends[0] - started - per_step - beside.seconds_to_load)
    if recipe.uses_anchor:
        measuring = measuring * count_readings(job, recipe) + beside.seconds_per_anchor
    return ArmTiming(
        seconds_per_step=per_step,
        seconds_before=beside.seconds_to_load + measuring,
        num_trainable=run.num_trainable,
    )


def shorten_training(job: Job, plan: Plan, folder: Path) -> TuneRecipe:
    """A job's recipe with a few steps; its old data is a little of the training text, which need not be generated."""
    file = folder / "plan.yaml"
    plan.write(file)
    first = job.tasks[0].train if job.tasks else {}
    kept = {key: value for key, value in {**(job.tune or {}), **first}.items() if key != "epochs"}
    changed = {"plan": str(file), "output": str(folder / "run"), "steps": TIMED_STEPS}
    recipe = TuneRecipe.model_validate({**kept, **changed, "warmup_steps": 0, "save_every": 0})
    if recipe.anchor is None:
        return recipe
    update = {
        "sources": (recipe.data.source,) * len(recipe.anchor.sources),
        "text_field": recipe.data.text_field,
        "blocks": min(TIMED_BLOCKS, recipe.anchor.blocks),
    }
    return recipe.model_copy(update={"anchor": recipe.anchor.model_copy(update=update)})


def count_readings(job: Job, shortened: TuneRecipe) -> float:
    """How many times as long a method measures on all of its old data; 1 for one that does not read it through."""
    method, short = shortened.method, shortened.anchor
    anchor = AnchorOptions.model_validate((job.tune or {})["anchor"])
    if method is None or short is None or not METHODS[method.name].measures_anchor:
        return 1.0
    num_sources = len(anchor.sources)
    limit = getattr(method, "blocks", None) or num_sources * anchor.blocks
    return max(1.0, min(limit, num_sources * anchor.blocks) / min(limit, num_sources * short.blocks))


def time_evaluation(recipe: CompareRecipe, threads: int) -> EvaluationTiming:
    """What every run pays beside its steps, from a part of each."""
    with use_threads(threads):
        started = time.perf_counter()
        loaded = load_on_device(recipe.model, dtype=choose_dtype(recipe))
        return EvaluationTiming(
            seconds_to_load=time.perf_counter() - started,
            seconds_per_evaluation=time_corpora(recipe, loaded, threads),
            seconds_per_suite=time_suite(recipe, loaded),
            seconds_per_anchor=time_anchor(recipe, loaded),
        )


def time_corpora(recipe: CompareRecipe, loaded: LoadedModel, threads: int) -> float:
    """Seconds to evaluate all texts once, from two documents of each."""
    corpora = read_corpora(make_base_job(recipe, threads))
    sample = [shorten(corpus) for corpus in corpora]
    score_corpora(loaded, sample[:1], window=recipe.window, stride=recipe.stride)  # the first is slower: not timed
    started = time.perf_counter()
    score_corpora(loaded, sample, window=recipe.window, stride=recipe.stride)
    seconds = time.perf_counter() - started
    timed, whole = (sum(corpus.documents.num_bytes for corpus in part) for part in (sample, corpora))
    return seconds * whole / timed


def time_suite(recipe: CompareRecipe, loaded: LoadedModel) -> float:
    """Seconds to answer the bundled tasks of the suite, from a few questions of each."""
    seconds = 0.0
    for task in expand_suite(recipe.suite):
        if task in BUNDLED_TASKS:
            total = len(read_questions(task, limit=recipe.suite_limit).questions)
            timed = min(total, TIMED_QUESTIONS)
            started = time.perf_counter()
            answer_task(loaded, task, limit=timed)
            seconds += (time.perf_counter() - started) * total / timed
    return seconds


def list_uncounted_tasks(recipe: CompareRecipe) -> tuple[str, ...]:
    """The tasks of lm-eval: how many questions they have is known only once they are loaded."""
    return tuple(task for task in expand_suite(recipe.suite) if task not in BUNDLED_TASKS)


def time_anchor(recipe: CompareRecipe, loaded: LoadedModel) -> float:
    """Seconds to generate the old data, from one batch; a text is read in no time to speak of."""
    train = TuneRecipe.model_validate({**recipe.list_trainings()[0], **TUNING_PLACEHOLDERS})
    anchor = train.anchor
    if anchor is None or SELF_GENERATED not in anchor.sources:
        return 0.0
    batch = min(anchor.blocks, anchor.batch_size)
    options = anchor.model_copy(update={"sources": (SELF_GENERATED,), "blocks": batch})
    started = time.perf_counter()
    build_anchor(options, loaded.model, loaded.tokenizer, sequence_length=train.sequence_length)
    num_batches = math.ceil(anchor.blocks / batch) * anchor.sources.count(SELF_GENERATED)
    return (time.perf_counter() - started) * num_batches


def shorten(corpus: Corpus) -> Corpus:
    """A corpus' first documents."""
    documents = corpus.documents
    texts = documents.texts[:TIMED_DOCUMENTS]
    return Corpus(
        documents=Documents(name=documents.name, source=documents.source, texts=texts), new_domain=corpus.new_domain
    )
