"""Finished jobs become the Comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from oblong.comparing.cells import Cell
from oblong.comparing.contrasts import compute_answer_changes, compute_changes
from oblong.comparing.jobs import Job
from oblong.comparing.recipe import CompareRecipe, needs_old_data
from oblong.comparing.relearning_changes import compare_relearning
from oblong.comparing.retention import compare_retention
from oblong.comparing.sequences import describe_sequence
from oblong.records import ArmRun, Comparison, EvaluatedState, Evaluation, Plan, Provenance, Run, RunStatus, TaskRun


def assemble(
    recipe: CompareRecipe, plans: Mapping[str, Plan], base: Job, jobs: Mapping[Cell, Job], file: Path
) -> Comparison:
    """Gather the finished jobs into the Comparison and write it."""
    before = base.read_evaluation()
    runs = tuple(collect_run(cell, job) for cell, job in jobs.items())
    comparison = Comparison(
        name=recipe.name,
        model=recipe.model,
        control=recipe.control,
        recipe=recipe.model_dump(mode="json"),
        plans=plans,
        base=before,
        runs=runs,
        changes=compute_changes(before, runs, control=recipe.control),
        answers=compute_answer_changes(before, runs),
        retention=compare_retention(before, runs, control=recipe.control, gain=recipe.gain),
        sequence=describe_sequence(before, runs, [task.name for task in recipe.tasks], control=recipe.control),
        relearning=compare_relearning(before, runs, control=recipe.control),
        data_free={arm: not needs_old_data(recipe, arm) for arm in recipe.arms},
        noise_floors=read_noise_floors(base),
        provenance=Provenance.here(),
    )
    comparison.write(file, force=True)
    return comparison


def collect_run(cell: Cell, job: Job) -> ArmRun:
    """What one job made."""
    run, evaluation = job.read_run(), job.read_evaluation()
    tasks = tuple(collect_task(job, place) for place in range(len(job.list_learned())))
    finite = [task for task in tasks if task.evaluation is not None]
    num_steps = sum(task.run.num_steps for task in finite) if job.tasks else run.num_steps
    # A sequence, or a run of an earlier version, has no states beside its end.
    states = job.read_states() or (EvaluatedState(step=num_steps, evaluation=evaluation),)
    return ArmRun(
        arm=cell.arm,
        seed=cell.seed,
        learning_rate=cell.learning_rate,
        run=run,
        evaluation=evaluation,
        states=states,
        stopped=explain_sequence_end(tasks, job) if job.tasks else explain_end(run, states[-1].step),
        tasks=tasks,
        relearning=job.read_relearning(),
    )


def collect_task(job: Job, place: int) -> TaskRun:
    """What one task of a job's sequence made."""
    files = (job.locate_evaluation(place), job.locate_told(place))
    evaluation, told = (Evaluation.read(file) if file.exists() else None for file in files)
    return TaskRun(task=job.tasks[place].name, run=job.read_task(place), evaluation=evaluation, told=told)


def explain_sequence_end(tasks: Sequence[TaskRun], job: Job) -> str | None:
    """Why a sequence ended before its last task, or is judged by a state before its end; None if neither."""
    last = tasks[-1]
    reason = explain_end(last.run, last.run.num_steps if last.evaluation else -1)
    if reason is None:
        return None
    return f"task {len(tasks)} of {len(job.tasks)}, {last.task}: {reason}"


def explain_end(run: Run, last_step: int) -> str | None:
    """Why a run ended before its last step, or is judged by a state before its end; None if neither."""
    if run.status is RunStatus.STOPPED:
        return run.stopped
    if run.status is RunStatus.DIVERGED:
        return f"the loss or gradient of step {run.num_steps + 1} was not a finite number"
    if last_step < run.num_steps:
        return f"after its last step, {run.num_steps}, its predictions were not finite numbers"
    return None


def read_noise_floors(base: Job) -> dict[str, float]:
    """Noise floors by corpus; empty where the base was evaluated once."""
    if not base.noise_floor_file.exists():
        return {}
    floors: dict[str, float] = json.loads(base.noise_floor_file.read_text(encoding="utf-8"))
    return floors
