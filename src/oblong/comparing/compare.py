"""A comparison from recipe to record: scan, plan every arm, tune and evaluate every run, compute the differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from oblong.checkpoints.locate import locate_model
from oblong.comparing.arms import ArmRule
from oblong.comparing.assembling import assemble
from oblong.comparing.cells import Cell, iter_cells, list_learning_rates
from oblong.comparing.jobs import BASE, Dtype, Job, TaskTraining
from oblong.comparing.recipe import TUNING_PLACEHOLDERS, CompareRecipe
from oblong.comparing.runner import OnPoll, check_folders, default_num_workers, default_threads, run_jobs
from oblong.comparing.texts import EvaluationCorpus
from oblong.corpora import read_documents
from oblong.corpora.questions import BUNDLED_TASKS, expand_suite
from oblong.errors import DataError, MissingExtraError
from oblong.evaluation.suite import check_suite
from oblong.models.stored_tensors import open_stored_tensors
from oblong.planning import plan as make_plan
from oblong.planning import random_matching_parameters, random_matching_role_and_shape
from oblong.records import Comparison, Plan, Scan
from oblong.scanning import scan as scan_model
from oblong.scanning.progress import ProgressCallback
from oblong.tuning.adapters.planning import plan_adapter
from oblong.tuning.data import read_training_text
from oblong.tuning.recipe import TuneRecipe

SCAN_FILE: Final = "scan.jsonl"
COMPARISON_FILE: Final = "comparison.json"
MIN_DOCUMENTS: Final = 2
DRAW_MATCHING: Final[Mapping[str, Callable[[Plan, Scan, int], Plan]]] = {
    "role_and_shape": random_matching_role_and_shape,
    "parameters": random_matching_parameters,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Whoever wants to see a comparison go on; every callback may be missing."""

    on_scan: ProgressCallback | None = None
    on_plans: Callable[[Scan, Sequence[Plan]], None] | None = None
    on_remark: Callable[[str], None] | None = None
    on_poll: OnPoll | None = None


def compare(recipe: CompareRecipe, *, watcher: Watcher | None = None) -> Comparison:
    """Run (or finish) a comparison and write `comparison.json` into its output folder.

    Every arm has the same budget, training text, text order under one seed, steps and held-out documents. What is
    already there is not done again, so an interrupted comparison goes on under the same call.

    Args:
        recipe: what to compare.
        watcher: callbacks for progress.

    Returns:
        The Comparison, also written.

    Raises:
        MissingExtraError: an arm or the suite needs a library that is not installed.
        SelectionError: an arm's rule or the budget does not fit the model.
        OutputExistsError: the output folder holds another comparison's results.
        WorkerError: a run died; the message holds the end of its log, and the same command goes on from there.
    """
    watcher = watcher or Watcher()
    check_extras(recipe)
    check_corpora(recipe)
    output = Path(recipe.output)
    scan = obtain_scan(recipe, watcher)
    plans = plan_arms(scan, recipe)
    first = {arm: plans[arm, recipe.seeds[0]] for arm in recipe.arms}
    if watcher.on_plans is not None:
        watcher.on_plans(scan, list(first.values()))
    for remark in describe_twins(recipe, plans):
        if watcher.on_remark is not None:
            watcher.on_remark(remark)
    num_workers = recipe.workers or default_num_workers()
    threads = default_threads(num_workers)
    base = make_base_job(recipe, threads)
    jobs = {cell: make_job(recipe, cell, threads) for cell in iter_cells(recipe)}
    check_folders([base, *jobs.values()])
    for (arm, seed), plan in plans.items():
        write_plan(plan, locate_plan(recipe, arm, seed))
    run_in_order(base, list(jobs.values()), num_workers, watcher.on_poll)
    return assemble(recipe, first, base, jobs, output / COMPARISON_FILE)


def run_in_order(base: Job, jobs: Sequence[Job], num_workers: int, on_poll: OnPoll | None) -> None:
    """The base first, since the others are measured against it on their way."""
    poll: OnPoll | None = None if on_poll is None else lambda _: on_poll([base, *jobs])
    run_jobs([base], num_workers=1, on_poll=poll)
    run_jobs(jobs, num_workers=num_workers, on_poll=poll)


def check_extras(recipe: CompareRecipe) -> None:
    """Look for optional libraries before hours of training depend on them.

    Raises:
        MissingExtraError: an arm needs PEFT, or the suite lm-eval, which is not installed.
        DataError: lm-eval has no such task.
    """
    for arm, rule in recipe.arms.items():
        is_of_peft = rule.adapter is not None and (rule.adapter.lora or rule.adapter.osf) is not None
        if is_of_peft and find_spec("peft") is None:
            raise MissingExtraError(f"arm {arm}", "adapters")
    others = [task for task in expand_suite(recipe.suite) if task not in BUNDLED_TASKS]
    if others and find_spec("lm_eval") is None:
        raise MissingExtraError(f"the suite {', '.join(others)}", "lm-eval")
    check_suite(recipe.suite)


def check_corpora(recipe: CompareRecipe) -> None:
    """Read every text once before hours of training depend on it.

    Raises:
        DataError: a text is missing or empty, a held-out one has fewer than two documents to resample, or is in the
            text that is relearned.
    """
    for train in recipe.list_trainings():
        read_training_text(TuneRecipe.model_validate({**train, **TUNING_PLACEHOLDERS}).data)
    held_out = {name: read_held_out(name, spec) for name, spec in recipe.corpora.items()}
    if recipe.relearn is not None:
        practice = set(read_training_text(recipe.relearn.data).texts)
        for name in recipe.relearned_texts:
            if practice & set(held_out[name]):
                raise DataError(
                    f"relearn.data: {recipe.relearn.data.source} has documents of the held-out text {name} in it, "
                    "which would be learned by heart: give other text, or leave them out with skip"
                )


def read_held_out(name: str, spec: EvaluationCorpus) -> tuple[str, ...]:
    """The documents of a held-out text.

    Raises:
        DataError: missing or empty, or fewer than two documents to resample.
    """
    texts = read_documents(spec.data, text_field=spec.text_field, limit=spec.documents).texts
    if len(texts) < MIN_DOCUMENTS:
        raise DataError(
            f"evaluate.{name}: {spec.data} has {len(texts)} document, but intervals resample documents: give at least "
            f"{MIN_DOCUMENTS}, for example one per paragraph in a JSON Lines file"
        )
    return texts


def obtain_scan(recipe: CompareRecipe, watcher: Watcher) -> Scan:
    """The recipe's Scan, or this comparison's own, made on the first call."""
    if recipe.scan is not None:
        return Scan.read(Path(recipe.scan))
    file = Path(recipe.output) / SCAN_FILE
    if file.exists():
        return Scan.read(file)
    return scan_model(recipe.model, output=file, spectrum="full", on_progress=watcher.on_scan)


def plan_arms(scan: Scan, recipe: CompareRecipe) -> dict[tuple[str, int], Plan]:
    """The Plan of every arm under every seed."""
    return {(arm, seed): plan_arm(scan, recipe, arm, seed) for arm in recipe.arms for seed in recipe.seeds}


def describe_twins(recipe: CompareRecipe, plans: Mapping[tuple[str, int], Plan]) -> list[str]:
    """A remark for every arm that does again what an earlier one does; criteria often choose the same tensors."""
    first: dict[str, str] = {}
    remarks = []
    for arm, rule in recipe.arms.items():
        chosen = [sorted(plans[arm, seed].tensor_names) for seed in recipe.seeds]
        done = repr((override_training(rule, recipe.budget), list_learning_rates(recipe, arm), chosen))
        twin = first.setdefault(done, arm)
        if twin != arm:
            remarks.append(
                f"arms {twin} and {arm} train the same tensors in the same way, so their runs give the same numbers: "
                "leave one out"
            )
    return remarks


def plan_arm(scan: Scan, recipe: CompareRecipe, arm: str, seed: int) -> Plan:
    """The Plan of one arm under one seed; only a redrawn random arm depends on the seed."""
    rule = recipe.arms[arm]
    if rule.plan is not None:
        return Plan.read(Path(rule.plan))
    if rule.adapter is not None:
        return plan_adapter(rule.adapter, open_stored_tensors(locate_model(recipe.model)), model=recipe.model, name=arm)
    if rule.matches is not None:
        draw = DRAW_MATCHING[rule.match]
        drawn = draw(plan_arm(scan, recipe, rule.matches, seed), scan, seed if rule.redraw else recipe.seeds[0])
        return drawn.model_copy(update={"name": arm})
    return make_plan(
        scan,
        name=arm,
        criterion=rule.criterion,
        order=rule.order,
        within=rule.within,
        budget=rule.budget or recipe.budget,
        seed=seed if rule.criterion == "random" and rule.redraw else recipe.seeds[0],
    )


def make_base_job(recipe: CompareRecipe, threads: int) -> Job:
    """Evaluate the model as it is."""
    return Job(
        arm=BASE,
        seed=0,
        folder=str(Path(recipe.output) / BASE),
        model=recipe.model,
        tune=None,
        corpora=recipe.corpora,
        window=recipe.window,
        stride=recipe.stride,
        divergence=False,
        threads=threads,
        dtype=choose_dtype(recipe),
        suite=recipe.suite,
        suite_limit=recipe.suite_limit,
        num_evaluations=max(1, recipe.noise_floor),
    )


def choose_dtype(recipe: CompareRecipe) -> Dtype:
    """Models are evaluated in the dtype that they are trained in."""
    dtype: Dtype = recipe.train.get("dtype", TuneRecipe.model_fields["dtype"].default)
    return dtype


def make_job(recipe: CompareRecipe, cell: Cell, threads: int) -> Job:
    """Tune one arm at one learning rate with one seed and evaluate it."""
    output = Path(recipe.output)
    folder = cell.locate(output)
    return Job(
        arm=cell.arm,
        seed=cell.seed,
        folder=str(folder),
        model=recipe.model,
        tune={
            **strip_task_fields(recipe),
            **override_training(recipe.arms[cell.arm], recipe.budget),
            "learning_rate": cell.learning_rate,
            "model": recipe.model,
            "plan": str(locate_plan(recipe, cell.arm, cell.seed)),
            "output": str(folder / "run"),
            "seed": cell.seed,
            "threads": threads,
        },
        tasks=list_tasks(recipe),
        relearn=recipe.relearn and recipe.relearn.model_copy(update={"texts": recipe.relearned_texts}),
        corpora=recipe.corpora,
        window=recipe.window,
        stride=recipe.stride,
        divergence=recipe.divergence,
        state_divergence=recipe.state_divergence,
        threads=threads,
        learning_rate=cell.learning_rate,
        rate_name=cell.rate_name,
        dtype=choose_dtype(recipe),
        suite=recipe.suite,
        suite_limit=recipe.suite_limit,
        evaluate_at=tuple(sorted(recipe.evaluate_at)),
        hopeless_margin=None if recipe.hopeless is None else recipe.hopeless.margin,
        base_folder=str(output / BASE),
    )


TASK_FIELDS: Final = ("data", "steps", "epochs")


def strip_task_fields(recipe: CompareRecipe) -> dict[str, Any]:
    """`train`; in a sequence without what each task has for itself."""
    return {name: value for name, value in recipe.train.items() if not recipe.tasks or name not in TASK_FIELDS}


def list_tasks(recipe: CompareRecipe) -> tuple[TaskTraining, ...]:
    """What each task trains that the others do not; none without a sequence."""
    return tuple(
        TaskTraining(name=task.name, train={field: train[field] for field in TASK_FIELDS if field in train})
        for task, train in zip(recipe.tasks, recipe.list_trainings(), strict=False)
    )


def override_training(rule: ArmRule, budget: str) -> dict[str, Any]:
    """An arm's own method and adapter, if it has them; LoRA's rank is by the budget unless given."""
    method = {} if rule.method is None else {"method": rule.method.model_dump(mode="json")}
    if rule.adapter is None or rule.adapter.full is not None:  # `full` is what its Plan says already
        return method
    return {**method, "adapter": rule.adapter.spend(rule.budget or budget).model_dump(mode="json")}


def locate_plan(recipe: CompareRecipe, arm: str, seed: int) -> Path:
    """Where the Plan of an arm under a seed is, the same for all learning rates."""
    return Path(recipe.output) / arm / f"seed-{seed}.plan.yaml"


def write_plan(plan: Plan, file: Path) -> None:
    """Write a Plan unless the same one is there: its time of writing must not make a resumed run look new."""
    if not file.exists() or Plan.read(file).digest() != plan.digest():
        plan.write(file, force=True)
