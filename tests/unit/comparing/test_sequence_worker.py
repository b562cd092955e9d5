"""A sequence of tasks in a worker: what goes on from task to task, what is not done twice, and where it breaks off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oblong.comparing.assembling import collect_run
from oblong.comparing.cells import iter_cells
from oblong.comparing.compare import check_corpora, make_base_job, make_job, obtain_scan, plan_arms
from oblong.comparing.compare import Watcher, locate_plan, write_plan
from oblong.comparing.jobs import Job
from oblong.comparing.recipe import build_compare_recipe
from oblong.comparing.sequences import describe_sequence
from oblong.comparing.worker import carry_out
from oblong.errors import NonFinitePredictionError
from oblong.records import ArmRun, RunStatus
from oblong.tuning.workspace import ANCHOR_FILE
from tests.sequence_builders import PLAIN, make_sequence_data

TASKS = ("loud", "digits")
ARMS = {
    "plain": PLAIN,
    "ewc": {**PLAIN, "method": {"name": "ewc", "strength": 1.0}},
    "packnet": {**PLAIN, "method": {"name": "packnet", "strength": 0.5}},
}


def prepare(folder: Path, **changes: Any) -> tuple[Job, dict[str, Job]]:
    """The jobs of a comparison, its Plans written."""
    recipe = build_compare_recipe(make_sequence_data(folder, **changes), Path("recipe.yaml"))
    check_corpora(recipe)
    for (arm, seed), plan in plan_arms(obtain_scan(recipe, Watcher()), recipe).items():
        write_plan(plan, locate_plan(recipe, arm, seed))
    return make_base_job(recipe, 1), {cell.arm: make_job(recipe, cell, 1) for cell in iter_cells(recipe)}


def perform(job: Job) -> Job:
    job.prepare()
    carry_out(job)
    return job


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, dict[str, Job]]:
    base, jobs = prepare(tmp_path_factory.mktemp("sequence"), arms=ARMS)
    for job in (base, *jobs.values()):
        perform(job)
    return base, jobs


def collect(jobs: dict[str, Job]) -> list[ArmRun]:
    recipe_cells = {}
    for arm, job in jobs.items():
        recipe_cells[arm] = job
    from oblong.comparing.cells import Cell

    return [
        collect_run(Cell(arm=arm, learning_rate=0.01, seed=0, rate_name=None), job) for arm, job in recipe_cells.items()
    ]


def read_weights(job: Job, place: int) -> dict[str, torch.Tensor]:
    return load_file(job.locate_run(place) / "delta" / "delta.safetensors")


def test_every_task_goes_on_from_the_one_before(done: tuple[Job, dict[str, Job]]) -> None:
    _, jobs = done
    for run in collect(jobs):
        print(run.arm, [(t.task, t.run.num_steps, {n: round(c.loss, 4) for n, c in t.evaluation.corpora.items()}) for t in run.tasks])
    seq = describe_sequence(done[0].read_evaluation(), collect(jobs), TASKS, control="plain")
    print(seq.model_dump_json(indent=1))
