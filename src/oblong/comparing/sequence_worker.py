"""A job whose run is a sequence of tasks: each is a tuning run that goes on from the one before.

A finished task has its Run, and an evaluated one its Evaluation: neither is made twice, so a killed worker goes on in
the middle of the task that it was at.
"""

from __future__ import annotations

from typing import Any

from oblong.comparing.evaluating import evaluate_run
from oblong.comparing.jobs import Job, LossChanges
from oblong.comparing.states import measure_changes
from oblong.comparing.told import evaluate_told
from oblong.errors import NonFinitePredictionError
from oblong.evaluation.evaluate import Corpus
from oblong.methods import build_method
from oblong.records import EvaluatedState, Evaluation, Run, RunStatus
from oblong.tuning.recipe import TuneRecipe
from oblong.tuning.run import tune
from oblong.tuning.workspace import RUN_FILE


def learn_sequence(job: Job, corpora: list[Corpus]) -> EvaluatedState:
    """Learn every task and evaluate after each; a task that diverges is the last.

    Returns:
        The last state whose predictions are finite numbers, at worst the base; its step counts those of all tasks.
    """
    base = Evaluation.read(job.base_evaluation_file)
    state = EvaluatedState(step=0, evaluation=base.model_copy(update={"name": job.arm}))
    changes: LossChanges | None = None
    num_steps = 0
    for place in range(len(job.tasks)):
        run = learn_task(job, place, changes)
        evaluation = evaluate_task(job, place, corpora, changes)
        num_steps += run.num_steps
        if evaluation is None:
            break
        state = EvaluatedState(step=num_steps, evaluation=evaluation)
        changes = measure_changes(state, base)
        if run.status is RunStatus.DIVERGED:
            break
    return state


def make_task_recipe(job: Job, place: int) -> TuneRecipe:
    """The tuning recipe of one task, which starts from the Run before."""
    is_last = place == len(job.tasks) - 1
    fields: dict[str, Any] = {
        **(job.tune or {}),
        **job.tasks[place].train,
        "output": str(job.locate_run(place)),
        "after": str(job.locate_run(place - 1)) if place else None,
    }
    recipe = TuneRecipe.model_validate(fields)
    return recipe.model_copy(update={"keep_for_next": not is_last or reads_by_task(recipe)})


def reads_by_task(recipe: TuneRecipe) -> bool:
    """Whether the model, told which task a text is of, answers otherwise."""
    if recipe.adapter is not None and recipe.adapter.adds_modules:
        return True
    return recipe.method is not None and build_method(recipe.method).reads_by_task


def learn_task(job: Job, place: int, changes: LossChanges | None) -> Run:
    """Tune, unless that is done."""
    stage = f"task {place + 1} of {len(job.tasks)}"

    def on_progress(step: int, total: int, loss: float) -> None:
        job.report(stage, step, total, f"loss {loss:.3f}", changes=changes)

    folder = job.locate_run(place)
    if not (folder / RUN_FILE).exists():
        job.report(stage, 0, 1, changes=changes)
        tune(make_task_recipe(job, place), on_progress=on_progress)
    return Run.read(folder / RUN_FILE)


def evaluate_task(job: Job, place: int, corpora: list[Corpus], changes: LossChanges | None) -> Evaluation | None:
    """Evaluate the model after a task on every text, unless that is done; None if its predictions are not finite."""
    is_last = place == len(job.tasks) - 1
    file = job.locate_evaluation(place)
    if not file.exists():
        try:
            evaluation = evaluate_run(
                job,
                corpora,
                job.locate_run(place),
                has_divergence=job.divergence if is_last else job.state_divergence,
                suite=job.suite if is_last else (),
                changes=changes,
            )
            recipe = make_task_recipe(job, place)
            if reads_by_task(recipe):
                evaluate_told(job, place, corpora, recipe).write(job.locate_told(place), force=True)
        except NonFinitePredictionError:
            return None
        evaluation.write(file, force=True)
    return Evaluation.read(file)
