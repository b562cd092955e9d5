"""`python -m oblong.comparing.worker FOLDER`: carry out one job in a process of its own.

A process per run keeps peak memory measurable, threads separate, and a crash to itself. A worker whose parent was
killed ends too, and a folder is locked while a worker is in it, so that two never write into the same run.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Final

from filelock import FileLock

from oblong.comparing.evaluating import evaluate_run, read_corpora
from oblong.comparing.jobs import BASE, JOB_FILE, Job, LossChanges
from oblong.comparing.relearned import relearn
from oblong.comparing.sequence_worker import learn_sequence
from oblong.comparing.states import StateEvaluator, find_last_finite, measure_changes
from oblong.errors import NonFinitePredictionError, OblongError
from oblong.evaluation.evaluate import Corpus, evaluate
from oblong.evaluation.noise_floor import measure_noise_floor
from oblong.records import EvaluatedState, Evaluation, RunStatus
from oblong.tuning.observing import Observer
from oblong.tuning.recipe import TuneRecipe
from oblong.tuning.run import tune
from oblong.tuning.workspace import RUN_FILE

WATCH_SECONDS: Final = 0.5
BATCH_SIZES: Final = (4, 1, 2, 3, 5, 6, 8, 12)  # the first is that of every other evaluation


def main() -> int:
    """Run the job in the folder named on the command line."""
    job = Job.model_validate_json((Path(sys.argv[1]) / JOB_FILE).read_text(encoding="utf-8"))
    end_with_parent()
    try:
        with FileLock(job.path / "lock"):
            carry_out(job)
    except OblongError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def end_with_parent() -> None:
    """Leave when the parent process is gone, killed without a chance to stop its workers."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def carry_out(job: Job) -> None:
    """Tune (unless this is the base, or it is tuned already), evaluate, and write the Evaluation last."""
    job.report("starting", 0, 1)
    corpora = read_corpora(job)
    if job.tune is None:
        evaluation = evaluate_base(job, corpora)
        job.report("done", 1, 1)
    else:
        state = learn_sequence(job, corpora) if job.tasks else learn_arm(job, corpora)
        evaluation = state.evaluation
        changes = measure_changes(state, Evaluation.read(job.base_evaluation_file))
        if job.relearn is not None:
            relearn(job, job.relearn, corpora, changes)
        status = job.read_run().status
        job.report("done", 1, 1, "" if status is RunStatus.COMPLETED else status.value, changes=changes)
    evaluation.write(job.evaluation_file, force=True)


def learn_arm(job: Job, corpora: list[Corpus]) -> EvaluatedState:
    """Tune on the one text, evaluating on the way and at the end."""
    evaluator = StateEvaluator(job, corpora)
    step = train_arm(job, evaluator)
    state = evaluate_arm(job, corpora, step, evaluator.changes)
    state.evaluation.write(job.state_file(state.step), force=True)
    return state


def train_arm(job: Job, evaluator: StateEvaluator) -> int:
    """Tune, evaluating on the way; returns the steps done."""

    def on_progress(step: int, total: int, loss: float) -> None:
        job.report("tuning", step, total, f"loss {loss:.3f}", changes=evaluator.changes)

    if not (job.run_folder / RUN_FILE).exists():
        observer = Observer(steps=frozenset(job.evaluate_at), look=evaluator.look)
        tune(TuneRecipe.model_validate(job.tune), on_progress=on_progress, observer=observer)
    return job.read_run().num_steps


def evaluate_arm(job: Job, corpora: list[Corpus], step: int, changes: LossChanges | None) -> EvaluatedState:
    """The final state; the last one before it whose predictions are finite numbers, if its own are not."""
    try:
        evaluation = evaluate_run(
            job, corpora, job.run_folder, has_divergence=job.divergence, suite=job.suite, changes=changes
        )
    except NonFinitePredictionError:
        return find_last_finite(job)
    return EvaluatedState(step=step, evaluation=evaluation)


def evaluate_base(job: Job, corpora: list[Corpus]) -> Evaluation:
    """The model as it is; several times for its noise floor, with other batch sizes."""
    evaluations = [
        evaluate(
            job.model,
            corpora,
            suite=job.suite if batch_size == BATCH_SIZES[0] else (),
            suite_limit=job.suite_limit,
            name=BASE,
            window=job.window,
            stride=job.stride,
            batch_size=batch_size,
            dtype=job.dtype,
            threads=job.threads,
            on_progress=lambda done, total: job.report("evaluating", done, total),
        )
        for batch_size in BATCH_SIZES[: job.num_evaluations]
    ]
    if len(evaluations) > 1:
        floors = {
            name: measure_noise_floor([evaluation.corpora[name].documents for evaluation in evaluations]).floor
            for name in evaluations[0].corpora
        }
        job.noise_floor_file.write_text(json.dumps(floors, indent=1), encoding="utf-8")
    return evaluations[0]


if __name__ == "__main__":
    sys.exit(main())
