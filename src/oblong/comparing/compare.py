"""A comparison from recipe to record: scan, plan every arm, tune and evaluate every run, compute the differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from oblong.checkpoints.locate import locate_model
from oblong.comparing.contrasts import compute_changes
from oblong.comparing.jobs import BASE, Job
from oblong.comparing.recipe import TUNING_PLACEHOLDERS, ArmRule, CompareRecipe
from oblong.comparing.runner import OnPoll, default_num_workers, default_threads, run_jobs
from oblong.corpora import read_documents
from oblong.errors import DataError
from oblong.models.stored_tensors import open_stored_tensors
from oblong.planning import plan as make_plan
from oblong.planning import random_matching_parameters, random_matching_role_and_shape
from oblong.records import ArmRun, Comparison, Plan, Provenance, Scan
from oblong.scanning import scan as scan_model
from oblong.scanning.progress import ProgressCallback
from oblong.tuning.adapters.planning import plan_adapter
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
        SelectionError: an arm's rule or the budget does not fit the model.
        OutputExistsError: the output folder holds another comparison's results.
        WorkerError: a run died; the message holds the end of its log, and the same command goes on from there.
    """
    watcher = watcher or Watcher()
    check_corpora(recipe)
    output = Path(recipe.output)
    scan = obtain_scan(recipe, watcher)
    plans = {(arm, seed): plan_arm(scan, recipe, arm, seed) for arm in recipe.arms for seed in recipe.seeds}
    first = {arm: plans[arm, recipe.seeds[0]] for arm in recipe.arms}
    if watcher.on_plans is not None:
        watcher.on_plans(scan, list(first.values()))
    num_workers = recipe.workers or default_num_workers()
    threads = default_threads(num_workers)
    base = make_base_job(recipe, threads)
    jobs = {key: make_job(recipe, plan, key, threads) for key, plan in plans.items()}
    run_jobs([base, *jobs.values()], num_workers=num_workers, on_poll=watcher.on_poll)
    return assemble(recipe, first, base, jobs, output / COMPARISON_FILE)


def check_corpora(recipe: CompareRecipe) -> None:
    """Read every text once before hours of training depend on it.

    Raises:
        DataError: a text is missing or empty, or a held-out one has fewer than two documents to resample.
    """
    train = TuneRecipe.model_validate({**recipe.train, **TUNING_PLACEHOLDERS}).data
    read_documents(train.source, text_field=train.text_field, split=train.split, limit=train.limit)
    for name, spec in recipe.evaluate.items():
        found = len(read_documents(spec.data, text_field=spec.text_field, limit=spec.documents).texts)
        if found < MIN_DOCUMENTS:
            raise DataError(
                f"evaluate.{name}: {spec.data} has {found} document, but intervals resample documents: give at least "
                f"{MIN_DOCUMENTS}, for example one per paragraph in a JSON Lines file"
            )


def obtain_scan(recipe: CompareRecipe, watcher: Watcher) -> Scan:
    """The recipe's Scan, or this comparison's own, made on the first call."""
    if recipe.scan is not None:
        return Scan.read(Path(recipe.scan))
    file = Path(recipe.output) / SCAN_FILE
    if file.exists():
        return Scan.read(file)
    return scan_model(recipe.model, output=file, spectrum="full", on_progress=watcher.on_scan)


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
        corpora=recipe.evaluate,
        window=recipe.window,
        stride=recipe.stride,
        divergence=False,
        threads=threads,
    )


def make_job(recipe: CompareRecipe, plan: Plan, key: tuple[str, int], threads: int) -> Job:
    """Tune one arm with one seed and evaluate it; its Plan is written beside its results."""
    arm, seed = key
    folder = Path(recipe.output) / arm / f"seed-{seed}"
    plan_file = folder.parent / f"seed-{seed}.plan.yaml"
    write_plan(plan, plan_file)
    return Job(
        arm=arm,
        seed=seed,
        folder=str(folder),
        model=recipe.model,
        tune={
            **recipe.train,
            **override_training(recipe.arms[arm], recipe.budget),
            "model": recipe.model,
            "plan": str(plan_file),
            "output": str(folder / "run"),
            "seed": seed,
            "threads": threads,
        },
        corpora=recipe.evaluate,
        window=recipe.window,
        stride=recipe.stride,
        divergence=recipe.divergence,
        threads=threads,
    )


def override_training(rule: ArmRule, budget: str) -> dict[str, Any]:
    """An arm's own learning rate, method and adapter, if it has them; LoRA's rank is by the budget unless given."""
    rate = {} if rule.learning_rate is None else {"learning_rate": rule.learning_rate}
    method = {} if rule.method is None else {"method": rule.method.model_dump(mode="json")}
    # Everything, trained plainly, is what its Plan says already.
    special = rule.adapter is not None and rule.adapter.full is None
    adapter = {"adapter": rule.adapter.spend(rule.budget or budget).model_dump(mode="json")} if special else {}
    return {**rate, **method, **adapter}


def write_plan(plan: Plan, file: Path) -> None:
    """Write a Plan unless the same one is there: its time of writing must not make a resumed run look new."""
    if not file.exists() or Plan.read(file).digest() != plan.digest():
        plan.write(file, force=True)


def assemble(
    recipe: CompareRecipe, plans: dict[str, Plan], base: Job, jobs: dict[tuple[str, int], Job], file: Path
) -> Comparison:
    """Gather the finished jobs into the Comparison and write it."""
    before = base.read_evaluation()
    runs = tuple(
        ArmRun(arm=arm, seed=seed, run=job.read_run(), evaluation=job.read_evaluation())
        for (arm, seed), job in jobs.items()
    )
    comparison = Comparison(
        name=recipe.name,
        model=recipe.model,
        control=recipe.control,
        recipe=recipe.model_dump(mode="json"),
        plans=plans,
        base=before,
        runs=runs,
        changes=compute_changes(before, runs, control=recipe.control),
        provenance=Provenance.here(),
    )
    comparison.write(file, force=True)
    return comparison
