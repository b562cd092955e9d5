"""What a comparison would take, before it is started: runs, tokens, time, memory and disk."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from pydantic import Field

from oblong.comparing.cells import iter_cells
from oblong.comparing.compare import (
    SCAN_FILE,
    check_corpora,
    check_extras,
    describe_twins,
    make_base_job,
    make_job,
    plan_arms,
)
from oblong.comparing.jobs import Job
from oblong.comparing.recipe import TUNING_PLACEHOLDERS, CompareRecipe, needs_old_data
from oblong.comparing.runner import default_num_workers, default_threads
from oblong.comparing.timing import (
    TIMED_STEPS,
    ArmTiming,
    EvaluationTiming,
    OnTiming,
    list_uncounted_tasks,
    time_arms,
    time_evaluation,
)
from oblong.records import Part, Plan, Scan
from oblong.tuning.memory import measure_peak_memory
from oblong.tuning.recipe import TuneRecipe

CHECKPOINT_BYTES: Final = 12  # per trained parameter while a run is at work: float32 master and two moments
DELTA_BYTES: Final = 2  # per trained parameter, of a model stored in 16 bits


class ArmForecast(Part):
    """One arm, with what its method adds."""

    arm: str
    data_free: bool
    num_trainable: int
    num_left: int = Field(description="runs that are still to be done")
    seconds_per_step: float
    seconds_before: float = Field(description="loading, old data, and what the method measures before its first step")
    seconds_per_run: float | None = Field(description="evaluations and questions too; null where there are epochs")


class Forecast(Part):
    """What is still to be done; every run is counted whole, though hopeless ones stop early."""

    num_arms: int
    num_runs: int = Field(description="arms x learning rates x seeds")
    num_done: int = Field(description="of them, with this very configuration")
    num_workers: int
    steps_per_run: int | None = Field(description="null where the recipe gives epochs")
    tokens_per_run: int | None
    evaluations_per_run: int = Field(
        description="the one of the base for the KL counted as another, and the two after relearning"
    )
    relearning_steps_per_run: int = Field(description="of the tuned model and of the base together; not in the others")
    arms: tuple[ArmForecast, ...] = Field(description="empty where nothing could be timed, or all is done")
    seconds_per_evaluation: float | None
    seconds_per_suite: float | None = Field(description="answering the bundled questions, once per run")
    seconds: float | None = Field(description="wall-clock time of what is left; null where it is not known")
    memory_bytes: int | None = Field(description="peak of one worker; null where nothing could be timed")
    disk_bytes: int | None = Field(
        description="deltas of all runs, checkpoints of those at work; no modules beside the base; null without a Scan"
    )
    notes: tuple[str, ...]


def forecast_comparison(recipe: CompareRecipe, *, on_timing: OnTiming = lambda name: None) -> Forecast:
    """Forecast a comparison; nothing is run but a few steps of each kind of arm and parts of an evaluation.

    Args:
        recipe: what would be compared.
        on_timing: told the name of what is timed next.

    Raises:
        DataError: a text is missing or too short.
        SelectionError: an arm's rule or the budget does not fit the model.
        MethodError: an arm's method does not fit in memory.
    """
    check_extras(recipe)
    check_corpora(recipe)
    num_workers = recipe.workers or default_num_workers()
    threads = default_threads(num_workers)
    jobs = [make_job(recipe, cell, threads) for cell in iter_cells(recipe)]
    done = [job for job in jobs if job.is_done()]
    left = [job for job in jobs if not job.is_done()]
    scan = find_scan(recipe)
    plans = None if scan is None else plan_arms(scan, recipe)
    train = TuneRecipe.model_validate({**recipe.list_trainings()[0], **TUNING_PLACEHOLDERS})
    num_steps = count_steps(recipe)
    counted = {
        "num_arms": len(recipe.arms),
        "num_runs": len(jobs),
        "num_done": len(done),
        "num_workers": num_workers,
        "steps_per_run": num_steps,
        "tokens_per_run": None if num_steps is None else num_steps * train.blocks_per_step * train.sequence_length,
        "evaluations_per_run": count_evaluations(recipe),
        "relearning_steps_per_run": count_relearning_steps(recipe),
        "disk_bytes": None if plans is None else estimate_disk(jobs, plans, num_workers),
        "notes": (
            *iter_notes(recipe, done, is_scanned=scan is not None),
            *([] if plans is None else describe_twins(recipe, plans)),
        ),
    }
    if plans is None:
        untimed = dict.fromkeys(("seconds_per_evaluation", "seconds_per_suite", "seconds", "memory_bytes"))
        return Forecast(**counted, arms=(), **untimed)
    on_timing("an evaluation")
    evaluation = time_evaluation(recipe, threads)
    timings = time_arms(recipe, left, plans, evaluation, on_timing=on_timing)
    arms = tuple(forecast_arms(recipe, left, done, plans, timings, evaluation))
    base = make_base_job(recipe, threads)
    return Forecast(
        **counted,
        arms=arms,
        seconds_per_evaluation=evaluation.seconds_per_evaluation,
        seconds_per_suite=evaluation.seconds_per_suite if recipe.suite else None,
        seconds=sum_seconds(0.0 if base.is_done() else evaluate_base(base, evaluation), left, arms, num_workers),
        memory_bytes=max([measure_peak_memory(), *(run.peak_memory_bytes for job in done for run in job.read_runs())]),
    )


def find_scan(recipe: CompareRecipe) -> Scan | None:
    """The comparison's Scan, if it is there."""
    file = Path(recipe.scan or Path(recipe.output) / SCAN_FILE)
    return Scan.read(file) if file.exists() else None


def count_steps(recipe: CompareRecipe) -> int | None:
    """Steps of a run over all its tasks; None where epochs are given."""
    trainings = recipe.list_trainings()
    steps = [int(train["steps"]) for train in trainings if train.get("steps") is not None]
    return sum(steps) if len(steps) == len(trainings) else None


def count_relearning_steps(recipe: CompareRecipe) -> int:
    """Steps on old text after a run, from the tuned model and from the base."""
    return 0 if recipe.relearn is None else 2 * recipe.relearn.steps


def count_evaluations(recipe: CompareRecipe) -> int:
    """Readings of all texts per run: on the way or after tasks, the last with the base for the KL, after relearning."""
    on_the_way = len(recipe.evaluate_at) or max(0, len(recipe.tasks) - 1)
    return on_the_way * (1 + recipe.state_divergence) + 1 + recipe.divergence + 2 * (recipe.relearn is not None)


def forecast_arms(
    recipe: CompareRecipe,
    left: Sequence[Job],
    done: Sequence[Job],
    plans: Mapping[tuple[str, int], Plan],
    timings: Mapping[str, ArmTiming],
    evaluation: EvaluationTiming,
) -> Iterator[ArmForecast]:
    """What each arm with something left takes; its steps by its finished runs, where it has any."""
    evaluated = count_evaluations(recipe) * evaluation.seconds_per_evaluation + evaluation.seconds_per_suite
    for arm, timing in timings.items():
        runs = [run for job in done if job.arm == arm for run in job.read_runs()]
        measured = [run.seconds / run.num_steps for run in runs if run.num_steps]
        per_step = median(measured) if measured else timing.seconds_per_step
        steps = count_steps(recipe)
        before = timing.seconds_before * max(1, len(recipe.tasks))  # too much by what is carried over between tasks
        yield ArmForecast(
            arm=arm,
            data_free=not needs_old_data(recipe, arm),
            # A Plan without tensors is that of modules beside the base.
            num_trainable=plans[arm, recipe.seeds[0]].totals.num_parameters or timing.num_trainable,
            num_left=sum(job.arm == arm for job in left),
            seconds_per_step=per_step,
            seconds_before=timing.seconds_before,
            seconds_per_run=None
            if steps is None
            else before + (steps + count_relearning_steps(recipe)) * per_step + evaluated,
        )


def evaluate_base(base: Job, evaluation: EvaluationTiming) -> float:
    """Seconds for the base, which all runs wait for."""
    return base.num_evaluations * evaluation.seconds_per_evaluation + evaluation.seconds_per_suite


def sum_seconds(base: float, left: Sequence[Job], arms: Sequence[ArmForecast], num_workers: int) -> float | None:
    """Wall-clock time: the base, then the runs in order, each by the worker that is free first."""
    by_arm = {arm.arm: arm.seconds_per_run for arm in arms}
    durations = [seconds for job in left if (seconds := by_arm[job.arm]) is not None]
    return base + schedule(durations, num_workers) if len(durations) == len(left) else None


def schedule(durations: Iterable[float], num_workers: int) -> float:
    """When the last of some jobs ends that are taken in order by so many workers."""
    free = [0.0] * num_workers
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def estimate_disk(jobs: Sequence[Job], plans: Mapping[tuple[str, int], Plan], num_workers: int) -> int:
    """Deltas of all runs and checkpoints of those at work at the same time, bytes."""
    trained = sorted(plans[job.arm, job.seed].totals.num_parameters for job in jobs)
    num_deltas = max(1, len(jobs[0].tasks))
    return DELTA_BYTES * num_deltas * sum(trained) + CHECKPOINT_BYTES * sum(trained[-num_workers:])


def iter_notes(recipe: CompareRecipe, done: Sequence[Job], *, is_scanned: bool) -> Iterator[str]:
    """What the numbers rest on."""
    if not is_scanned:
        file = recipe.scan or Path(recipe.output) / SCAN_FILE
        scan = f"oblong scan {recipe.model} --spectrum full -o {file}"
        yield f"there is no Scan yet: after `{scan}` time, memory and disk are known too"
        return
    source = f"{TIMED_STEPS - 1} steps of every kind of arm, alone"
    finished = "; where an arm has finished runs, its steps are theirs" if done else ""
    yield f"time and memory are those of {source}{finished}; workers at the same time slow each other down"
    uncounted = list_uncounted_tasks(recipe)
    if uncounted:
        yield f"the questions of {', '.join(uncounted)} are not counted: lm-eval knows how many only once it loads them"
