"""States that are evaluated on the way: written once, kept over an interruption, and the end of hopeless runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from oblong.comparing.assembling import explain_end
from oblong.comparing.jobs import BASE, Job
from oblong.comparing.texts import EvaluationCorpus
from oblong.comparing.worker import carry_out
from oblong.errors import NonFinitePredictionError
from oblong.evaluation.evaluate import score_corpora
from oblong.records import Evaluation, RunStatus
from tests.tuning_builders import TEXTS, make_recipe, write_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model, texts, and the base's Evaluation."""
    write_text(tmp_path / "new.jsonl", [text.upper() for text in TEXTS[:3]])
    write_text(tmp_path / "old.jsonl", [text[::-1] for text in TEXTS[:3]])
    make_recipe(tmp_path)
    perform(make_job(tmp_path, BASE, base_folder=None, tune=None))
    return tmp_path


def make_job(folder: Path, name: str, *, training: Any = None, **fields: Any) -> Job:
    recipe = make_recipe(folder, output=str(folder / name / "run"), save_every=2, **(training or {}))
    values: dict[str, Any] = {
        "arm": name,
        "seed": 0,
        "folder": str(folder / name),
        "model": str(folder / "model"),
        "tune": recipe.model_dump(mode="json"),
        "corpora": {
            "new": EvaluationCorpus(data=str(folder / "new.jsonl"), new_domain=True),
            "old": EvaluationCorpus(data=str(folder / "old.jsonl")),
        },
        "window": 64,
        "stride": 64,
        "divergence": False,
        "threads": 1,
        "evaluate_at": (2, 4),
        "base_folder": str(folder / BASE),
    }
    return Job(**(values | fields))


def perform(job: Job) -> Job:
    job.prepare()
    carry_out(job)
    return job


def losses(job: Job) -> dict[tuple[int, str], float]:
    return {
        (state.step, name): corpus.loss
        for state in job.read_states()
        for name, corpus in state.evaluation.corpora.items()
    }


def read_base(folder: Path) -> dict[str, float]:
    base = Evaluation.read(folder / BASE / "evaluation.json")
    return {name: corpus.loss for name, corpus in base.corpora.items()}


def test_an_interrupted_run_evaluates_no_state_twice_and_ends_where_the_other_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = perform(make_job(folder, "whole"))
    job = make_job(folder, "killed")
    scored: list[int] = []

    def die_at_the_second(*args: Any, **options: Any) -> Any:
        scored.append(len(scored))
        if len(scored) == 2:
            raise KeyboardInterrupt
        return score_corpora(*args, **options)

    monkeypatch.setattr("oblong.comparing.states.score_corpora", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        perform(job)
    assert [state.step for state in job.read_states()] == [2]
    assert not job.is_done()
    perform(job)
    assert len(scored) == 3  # step 2, step 4 interrupted, step 4 again
    assert losses(job) == losses(whole)
    assert [state.step for state in job.read_states()] == [2, 4, 6]
    assert job.read_evaluation() == job.read_states()[-1].evaluation
    changes = job.read_progress().changes
    assert changes is not None
    assert changes.retention == pytest.approx(losses(job)[6, "old"] - read_base(folder)["old"])


def test_the_divergence_on_the_way_changes_nothing_else(folder: Path) -> None:
    constant = {"schedule": "constant"}
    plain = perform(make_job(folder, "plain", training=constant, divergence=True))
    along = perform(make_job(folder, "along", training=constant, divergence=True, state_divergence=True))
    assert losses(along) == losses(plain)
    assert [state.evaluation.corpora["old"].kl is None for state in plain.read_states()] == [True, True, False]
    found = [state.evaluation.corpora["old"].kl for state in along.read_states()]
    assert found[-1] == plain.read_evaluation().corpora["old"].kl
    assert all(kl is not None and kl > 0 for kl in found)
    short = perform(make_job(folder, "short", training={**constant, "steps": 4}, divergence=True, evaluate_at=()))
    assert found[1] == short.read_evaluation().corpora["old"].kl


def write_better_base(folder: Path) -> Path:
    """A base that halves the loss: no training of the tiny model, however wild, loses as much against the real one."""
    base = Evaluation.read(folder / BASE / "evaluation.json")
    corpora = {
        name: corpus.model_copy(
            update={"documents": tuple(score.model_copy(update={"nll": score.nll / 2}) for score in corpus.documents)}
        )
        for name, corpus in base.corpora.items()
    }
    better = folder / "better"
    base.model_copy(update={"corpora": corpora}).write(better / "evaluation.json")
    return better


def test_a_hopeless_run_stops_and_keeps_its_states(folder: Path) -> None:
    better = str(write_better_base(folder))
    job = perform(make_job(folder, "hopeless", hopeless_margin=0.2, base_folder=better))
    run = job.read_run()
    assert (run.status, run.num_steps) == (RunStatus.STOPPED, 2)
    found = re.fullmatch(
        r"after step 2 its new-domain loss was (\S+) nats per token above the base's, more than the 0.2 allowed",
        run.stopped or "",
    )
    assert found
    assert float(found[1]) == pytest.approx(losses(job)[2, "new"] - read_base(folder)["new"] / 2, abs=6e-4)
    assert [state.step for state in job.read_states()] == [2]
    assert explain_end(run, 2) == run.stopped
    for margin in (None, 9.0):
        going_on = perform(make_job(folder, f"going-on-{margin}", hopeless_margin=margin, base_folder=better))
        assert going_on.read_run().status is RunStatus.COMPLETED
        assert [state.step for state in going_on.read_states()] == [2, 4, 6]


def test_a_run_without_finite_predictions_is_judged_by_the_last_state_that_has_some(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(*args: Any, **options: Any) -> Any:
        raise NonFinitePredictionError("new: the model's predictions for document 1 are not finite numbers")

    monkeypatch.setattr("oblong.comparing.evaluating.evaluate", overflow)
    late = perform(make_job(folder, "late"))
    assert [state.step for state in late.read_states()] == [2, 4]
    assert explain_end(late.read_run(), 4) == "after its last step, 6, its predictions were not finite numbers"
    monkeypatch.setattr("oblong.comparing.states.score_corpora", overflow)
    never = perform(make_job(folder, "never"))
    assert [state.step for state in never.read_states()] == [0]
    assert never.read_run().status is RunStatus.STOPPED
    base = make_job(folder, BASE, base_folder=None, tune=None).read_evaluation()
    assert never.read_evaluation().corpora == base.corpora


def test_the_noise_floor_of_the_base_is_written_beside_its_evaluation(folder: Path) -> None:
    job = perform(make_job(folder, "floor", base_folder=None, tune=None, num_evaluations=3))
    assert job.noise_floor_file.exists()
    single = make_job(folder, BASE, base_folder=None, tune=None)
    assert not single.noise_floor_file.exists()
    assert job.read_evaluation().corpora == single.read_evaluation().corpora
