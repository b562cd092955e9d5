"""What a comparison would take, before it is started: runs, tokens, time, memory and disk."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from pydantic import Field

from oblong.comparing.cells import iter_cells
from oblong.comparing.compare import SCAN_FILE, check_corpora, choose_dtype, make_base_job, make_job, plan_arms
from oblong.comparing.evaluating import read_corpora
from oblong.comparing.jobs import Job
from oblong.comparing.recipe import TUNING_PLACEHOLDERS, CompareRecipe
from oblong.comparing.runner import default_num_workers, default_threads
from oblong.corpora import Documents
from oblong.evaluation.evaluate import Corpus, load_on_device, score_corpora
from oblong.records import Part, Plan, Scan
from oblong.tuning.memory import measure_peak_memory
from oblong.tuning.recipe import TuneRecipe
from oblong.tuning.run import tune, use_threads

TIMED_STEPS: Final = 3  # the first is slower and does not count
TIMED_DOCUMENTS: Final = 2
CHECKPOINT_BYTES: Final = 12  # per trained parameter while a run is at work: float32 master and two moments
DELTA_BYTES: Final = 2  # per trained parameter, of a model stored in 16 bits


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
    seconds_per_step: float | None = Field(description="null where nothing could be timed")
    seconds_per_evaluation: float | None
    memory_bytes: int | None = Field(description="peak of one worker; null where nothing could be timed")
    disk_bytes: int | None = Field(description="deltas of all runs, checkpoints of those at work; null without a Scan")
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """Wall-clock time of what is left."""
        if self.seconds_per_step is None or self.seconds_per_evaluation is None or self.steps_per_run is None:
            return None
        num_steps = self.steps_per_run + self.relearning_steps_per_run
        run = num_steps * self.seconds_per_step + self.evaluations_per_run * self.seconds_per_evaluation
        return run * math.ceil((self.num_runs - self.num_done) / self.num_workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What one worker takes."""

    seconds_per_step: float
    seconds_per_evaluation: float
    memory_bytes: int


def forecast_comparison(recipe: CompareRecipe) -> Forecast:
    """Forecast a comparison; nothing is run but a few timed steps and an evaluation, in a temporary folder.

    Raises:
        DataError: a text is missing or too short.
        SelectionError: an arm's rule or the budget does not fit the model.
    """
    check_corpora(recipe)
    num_workers = recipe.workers or default_num_workers()
    threads = default_threads(num_workers)
    jobs = [make_job(recipe, cell, threads) for cell in iter_cells(recipe)]
    done = [job for job in jobs if job.is_done()]
    scan = find_scan(recipe)
    plans = None if scan is None else plan_arms(scan, recipe)
    control = None if plans is None else plans[recipe.control, recipe.seeds[0]]
    first = next(job for job in jobs if job.arm == recipe.control)
    timing = measure_done(recipe, done) if done else None if control is None else time_worker(recipe, first, control)
    trains = [TuneRecipe.model_validate({**train, **TUNING_PLACEHOLDERS}) for train in recipe.list_trainings()]
    tokens_per_step = trains[0].blocks_per_step * trains[0].sequence_length
    num_steps = count_steps(trains)
    return Forecast(
        num_arms=len(recipe.arms),
        num_runs=len(jobs),
        num_done=len(done),
        num_workers=num_workers,
        steps_per_run=num_steps,
        tokens_per_run=None if num_steps is None else num_steps * tokens_per_step,
        evaluations_per_run=count_evaluations(recipe),
        relearning_steps_per_run=0 if recipe.relearn is None else 2 * recipe.relearn.steps,
        seconds_per_step=None if timing is None else timing.seconds_per_step,
        seconds_per_evaluation=None if timing is None else timing.seconds_per_evaluation,
        memory_bytes=None if timing is None else timing.memory_bytes,
        disk_bytes=None if plans is None else estimate_disk(jobs, plans, num_workers),
        notes=tuple(iter_notes(recipe, timing, is_scanned=scan is not None, is_measured=bool(done))),
    )


def count_steps(trains: Sequence[TuneRecipe]) -> int | None:
    """Steps of a run over all its tasks; None where epochs are given."""
    steps = [train.steps for train in trains if train.steps is not None]
    return sum(steps) if len(steps) == len(trains) else None


def count_evaluations(recipe: CompareRecipe) -> int:
    """Evaluations of a run: on the way, or after every task but the last, at its end, and after relearning."""
    on_the_way = len(recipe.evaluate_at) or max(0, len(recipe.tasks) - 1)
    return on_the_way * (1 + recipe.state_divergence) + 1 + recipe.divergence + 2 * (recipe.relearn is not None)


def find_scan(recipe: CompareRecipe) -> Scan | None:
    """The comparison's Scan, if it is there."""
    file = Path(recipe.scan or Path(recipe.output) / SCAN_FILE)
    return Scan.read(file) if file.exists() else None


def measure_done(recipe: CompareRecipe, done: Sequence[Job]) -> Timing:
    """What finished runs took."""
    runs = [run for job in done for run in job.read_runs()]
    return Timing(
        seconds_per_step=median(run.seconds / max(1, run.num_steps) for run in runs),
        seconds_per_evaluation=median(job.read_evaluation().seconds for job in done) / (1 + recipe.divergence),
        memory_bytes=max(run.peak_memory_bytes for run in runs),
    )


def time_worker(recipe: CompareRecipe, job: Job, plan: Plan) -> Timing:
    """A few steps of a job, without its method, and a part of an evaluation."""
    seconds_per_step = time_step(job, plan)
    return Timing(
        seconds_per_step=seconds_per_step,
        seconds_per_evaluation=time_evaluation(recipe, job.threads or 1),
        memory_bytes=measure_peak_memory(),
    )


def time_step(job: Job, plan: Plan) -> float:
    """Seconds of a step of plain fine-tuning."""
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.yaml"
        plan.write(file)
        first = job.tasks[0].train if job.tasks else {}
        whole = {**(job.tune or {}), **first}
        kept = {key: value for key, value in whole.items() if key not in ("epochs", "method", "anchor")}
        changed = {"plan": str(file), "output": str(Path(folder) / "run")}
        fields = {**kept, **changed, "steps": TIMED_STEPS, "warmup_steps": 0, "save_every": 0}
        tune(TuneRecipe.model_validate(fields), on_progress=lambda step, total, loss: ends.append(time.perf_counter()))
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def time_evaluation(recipe: CompareRecipe, threads: int) -> float:
    """Seconds to evaluate all texts once, from two documents of each; loading the model is not counted."""
    corpora = read_corpora(make_base_job(recipe, threads))
    sample = [shorten(corpus) for corpus in corpora]
    with use_threads(threads):
        loaded = load_on_device(recipe.model, dtype=choose_dtype(recipe))
        started = time.perf_counter()
        score_corpora(loaded, sample, window=recipe.window, stride=recipe.stride)
        seconds = time.perf_counter() - started
    timed, whole = (sum(corpus.documents.num_bytes for corpus in part) for part in (sample, corpora))
    return seconds * whole / timed


def shorten(corpus: Corpus) -> Corpus:
    """A corpus' first documents."""
    documents = corpus.documents
    texts = documents.texts[:TIMED_DOCUMENTS]
    return Corpus(
        documents=Documents(name=documents.name, source=documents.source, texts=texts), new_domain=corpus.new_domain
    )


def estimate_disk(jobs: Sequence[Job], plans: dict[tuple[str, int], Plan], num_workers: int) -> int:
    """Deltas of all runs and checkpoints of those at work at the same time, bytes."""
    trained = sorted(plans[job.arm, job.seed].totals.num_parameters for job in jobs)
    num_deltas = max(1, len(jobs[0].tasks))
    return DELTA_BYTES * num_deltas * sum(trained) + CHECKPOINT_BYTES * sum(trained[-num_workers:])


def iter_notes(recipe: CompareRecipe, timing: Timing | None, *, is_scanned: bool, is_measured: bool) -> Iterator[str]:
    """What the numbers rest on."""
    if not is_scanned:
        file = recipe.scan or Path(recipe.output) / SCAN_FILE
        yield f"there is no Scan yet: after `oblong scan {recipe.model} -o {file}` time, memory and disk are known too"
    if timing is not None:
        source = "finished runs" if is_measured else f"{TIMED_STEPS - 1} steps of plain fine-tuning, alone"
        yield f"time and memory are those of {source}; methods add their own, and workers slow each other down"
