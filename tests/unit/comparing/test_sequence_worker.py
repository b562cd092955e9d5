"""A sequence of tasks in a worker: what goes on from task to task, what is not done twice, and where it breaks off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from oblong.comparing import evaluating, sequence_worker
from oblong.comparing.assembling import assemble
from oblong.comparing.cells import Cell, iter_cells
from oblong.comparing.compare import (
    Watcher,
    check_corpora,
    locate_plan,
    make_base_job,
    make_job,
    obtain_scan,
    plan_arms,
    write_plan,
)
from oblong.comparing.jobs import Job
from oblong.comparing.recipe import CompareRecipe, build_compare_recipe
from oblong.comparing.worker import carry_out
from oblong.errors import NonFinitePredictionError
from oblong.records import ArmRun, Comparison, Plan, RunStatus
from oblong.tuning.chaining import MEMORY_FILE
from oblong.tuning.run import tune
from tests.sequence_builders import PLAIN, make_sequence_data

ARMS = {
    "plain": PLAIN,
    "ewc": {**PLAIN, "method": {"name": "ewc", "strength": 1.0}},
    "packnet": {**PLAIN, "method": {"name": "packnet", "strength": 0.5}},
    "lora": {"adapter": {"lora": {"rank": 2}}},
}


class Prepared(NamedTuple):
    """A comparison whose jobs can be carried out."""

    recipe: CompareRecipe
    plans: Mapping[str, Plan]
    base: Job
    jobs: Mapping[Cell, Job]

    def job(self, arm: str) -> Job:
        return next(job for cell, job in self.jobs.items() if cell.arm == arm)

    def assemble(self) -> Comparison:
        return assemble(self.recipe, self.plans, self.base, self.jobs, Path(self.recipe.output) / "comparison.json")


def prepare(folder: Path, **changes: Any) -> Prepared:
    recipe = build_compare_recipe(make_sequence_data(folder, **changes), Path("recipe.yaml"))
    check_corpora(recipe)
    plans = plan_arms(obtain_scan(recipe, Watcher()), recipe)
    for (arm, seed), plan in plans.items():
        write_plan(plan, locate_plan(recipe, arm, seed))
    jobs = {cell: make_job(recipe, cell, 1) for cell in iter_cells(recipe)}
    return Prepared(recipe, {arm: plans[arm, 0] for arm in recipe.arms}, make_base_job(recipe, 1), jobs)


def perform(*jobs: Job) -> None:
    for job in jobs:
        job.prepare()
        carry_out(job)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("sequence")
    relearn = {"data": {"source": str(folder / "old.jsonl"), "skip": 3}, "steps": 2}
    prepared = prepare(folder, arms=ARMS, relearn=relearn)
    perform(prepared.base, *prepared.jobs.values())
    return prepared


@pytest.fixture(scope="module")
def comparison(done: Prepared) -> Comparison:
    done.assemble()
    return Comparison.read(Path(done.recipe.output) / "comparison.json")


def run_of(comparison: Comparison, arm: str) -> ArmRun:
    return next(run for run in comparison.runs if run.arm == arm)


def read_weights(job: Job, place: int) -> dict[str, torch.Tensor]:
    return load_file(job.locate_run(place) / "delta" / "delta.safetensors")


def test_every_task_is_trained_from_the_one_before_and_evaluated_on_all_texts(comparison: Comparison) -> None:
    for run in comparison.runs:
        assert [(task.task, task.run.num_steps) for task in run.tasks] == [("loud", 4), ("digits", 3)]
        assert run.tasks[1].run.recipe["after"] == run.tasks[0].run.recipe["output"]
        texts = [list(task.evaluation.corpora) for task in run.tasks if task.evaluation]
        assert texts == [["loud", "digits", "old"]] * 2
        assert run.evaluation == run.tasks[-1].evaluation
        assert [state.step for state in run.states] == [7]
        assert run.stopped is None
    assert comparison.data_free == {"plain": True, "ewc": False, "packnet": False, "lora": True}
    assert comparison.base.corpora["loud"].new_domain
    assert not comparison.base.corpora["old"].new_domain


def test_the_matrix_holds_the_losses_and_the_measures_are_those_of_its_gains(comparison: Comparison) -> None:
    sequence = comparison.sequence
    assert sequence is not None
    assert (sequence.tasks, sequence.kept) == (("loud", "digits"), ("old",))
    assert [(arm.arm, arm.told) for arm in sequence.arms] == [
        *[(arm, False) for arm in ("plain", "ewc", "packnet")],
        ("packnet", True),
        ("lora", False),
    ]
    plain = sequence.arms[0]
    (matrix,) = plain.losses
    found = [task.evaluation for task in run_of(comparison, "plain").tasks]
    assert matrix == tuple(tuple(part.corpora[text].loss for text in sequence.texts) for part in found if part)
    gains = [[base - loss for base, loss in zip(sequence.base, row, strict=True)] for row in matrix]
    measures = plain.measures
    assert measures is not None
    assert measures.average.value.mean == pytest.approx((gains[1][0] + gains[1][1]) / 2)
    assert measures.backward_transfer.value.mean == pytest.approx(gains[1][0] - gains[0][0])
    assert measures.forward_transfer.value.mean == pytest.approx(gains[0][1])
    assert measures.forgetting.value.mean == pytest.approx(gains[0][0] - gains[1][0])
    assert measures.forgetting.against_control is None


def test_what_was_frozen_for_a_task_is_read_when_the_model_is_told_the_task(comparison: Comparison) -> None:
    first, second = run_of(comparison, "packnet").tasks
    assert first.told is not None
    assert second.told is not None
    assert (list(first.told.corpora), list(second.told.corpora)) == (["loud"], ["loud", "digits"])
    assert second.evaluation is not None
    # The newest task's model is the whole model; the older task's is not.
    assert second.told.corpora["digits"].documents == second.evaluation.corpora["digits"].documents
    assert second.told.corpora["loud"].documents != second.evaluation.corpora["loud"].documents
    assert comparison.sequence is not None
    told = next(arm for arm in comparison.sequence.arms if arm.told)
    # A task that is not learned yet has no number to be told: its text is read as without.
    assert told.losses[0][0][1] == comparison.sequence.arms[2].losses[0][0][1]
    assert told.measures is not None
    assert told.measures.average.against_control is None


def test_only_what_a_next_task_or_a_reading_needs_is_kept(done: Prepared) -> None:
    kept = {
        arm: [(done.job(arm).locate_run(place) / MEMORY_FILE).exists() for place in (0, 1)]
        for arm in ("ewc", "packnet")
    }
    assert kept == {"ewc": [True, False], "packnet": [True, True]}


def test_relearning_is_recorded_and_compared(comparison: Comparison) -> None:
    assert [(entry.arm, entry.corpus, entry.steps) for entry in comparison.relearning] == [
        (arm, "old", 2) for arm in ARMS
    ]
    for run in comparison.runs:
        assert run.relearning is not None
        scores = run.relearning.texts["old"]
        assert scores.base.loss < comparison.base.corpora["old"].loss  # two steps on it help
    plain, ewc, *_ = comparison.relearning
    probes = [run.relearning.texts["old"] for run in comparison.runs[:2] if run.relearning]
    assert plain.remaining.mean == pytest.approx(probes[0].tuned.loss - probes[0].base.loss)
    assert ewc.against_control is not None
    assert ewc.against_control.mean == pytest.approx(ewc.remaining.mean - plain.remaining.mean)


def test_an_interrupted_sequence_trains_no_finished_task_again_and_ends_in_the_same_weights(
    done: Prepared, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    again = prepare(tmp_path, arms={"plain": PLAIN, "ewc": ARMS["ewc"]})
    perform(again.base)
    job, trained = again.job("ewc"), []

    def die_in_the_second_task(recipe: Any, **options: Any) -> Any:
        trained.append(recipe.output)

        def on_progress(step: int, total: int, loss: float) -> None:
            if len(trained) == 2 and step == 2:
                raise KeyboardInterrupt

        return tune(recipe, on_progress=on_progress)

    monkeypatch.setattr(sequence_worker, "tune", die_in_the_second_task)
    with pytest.raises(KeyboardInterrupt):
        perform(job)
    assert [task.name for task in job.list_learned()] == ["loud"]
    assert not job.is_done()
    first = job.locate_evaluation(0).stat().st_mtime_ns
    perform(job)
    assert [Path(output).parent.name for output in trained] == ["1", "2", "2"]
    assert job.locate_evaluation(0).stat().st_mtime_ns == first
    for place in (0, 1):
        expected = read_weights(done.job("ewc"), place)
        assert all(torch.equal(value, expected[name]) for name, value in read_weights(job, place).items())
    found, whole = (each.read_evaluation().corpora for each in (job, done.job("ewc")))
    assert {name: score.documents for name, score in found.items()} == {
        name: score.documents for name, score in whole.items()
    }


def test_a_task_that_breaks_is_the_last_and_its_arm_has_no_measures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = prepare(tmp_path)
    evaluate = evaluating.evaluate_run

    def overflow(job: Job, *args: Any, **options: Any) -> Any:
        if job.arm == "ewc":
            raise NonFinitePredictionError("loud: the model's predictions for document 1 are not finite numbers")
        return evaluate(job, *args, **options)

    monkeypatch.setattr(sequence_worker, "evaluate_run", overflow)
    perform(broken.base, *broken.jobs.values())
    comparison = broken.assemble()
    run = run_of(comparison, "ewc")
    assert [(task.task, task.evaluation) for task in run.tasks] == [("loud", None)]
    assert run.stopped == "task 1 of 2, loud: after its last step, 4, its predictions were not finite numbers"
    assert run.evaluation.corpora == comparison.base.corpora
    assert run.run.status is RunStatus.COMPLETED
    assert comparison.sequence is not None
    assert [arm.measures is None for arm in comparison.sequence.arms] == [False, True]
