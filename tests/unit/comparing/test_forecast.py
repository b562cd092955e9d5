"""`--dry-run`: what is counted, what is timed, and that nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oblong.comparing import forecast as module
from oblong.comparing import timing
from oblong.comparing.cells import iter_cells
from oblong.comparing.compare import make_base_job, make_job, plan_arms
from oblong.comparing.forecast import Forecast, forecast_comparison, schedule
from oblong.comparing.recipe import CompareRecipe, build_compare_recipe
from oblong.comparing.runner import default_threads
from oblong.comparing.timing import (
    EvaluationTiming,
    count_readings,
    list_uncounted_tasks,
    shorten_training,
    time_anchor,
    time_arms,
    time_suite,
)
from oblong.comparing.worker import carry_out
from oblong.methods import SELF_GENERATED
from oblong.scanning import scan
from tests.suite_builders import load_tiny
from tests.tuning_builders import TEXTS, make_plan, save_tiny_llama, write_text

BESIDE = EvaluationTiming(
    seconds_to_load=0.25, seconds_per_evaluation=0.5, seconds_per_suite=3.0, seconds_per_anchor=0.125
)


@pytest.fixture
def recipe(tmp_path: Path) -> CompareRecipe:
    """Two arms, two learning rates and three seeds on a tiny model."""
    save_tiny_llama(tmp_path / "model")
    write_text(tmp_path / "text.jsonl")
    write_text(tmp_path / "new.jsonl", [text.upper() for text in TEXTS])
    data = {
        "name": "tiny",
        "model": str(tmp_path / "model"),
        "output": str(tmp_path / "out"),
        "budget": "3000p",
        "arms": {"kappa-lowest": {"criterion": "kappa"}, "random": {"criterion": "random"}},
        "control": "random",
        "seeds": [0, 1, 2],
        "learning_rates": [1e-3, 1e-2],
        "evaluate_at": [2],
        "train": {"data": str(tmp_path / "text.jsonl"), "steps": 4, "sequence_length": 32, "batch_size": 2},
        "evaluate": {"new": {"data": str(tmp_path / "new.jsonl"), "new_domain": True}},
        "window": 64,
        "stride": 64,
        "workers": 5,
    }
    return build_compare_recipe(data, Path("recipe.yaml"))


def test_without_a_scan_runs_and_tokens_are_counted(recipe: CompareRecipe) -> None:
    forecast = forecast_comparison(recipe)
    assert (forecast.num_arms, forecast.num_runs, forecast.num_done) == (2, 12, 0)
    assert forecast.tokens_per_run == 4 * 2 * 32
    assert forecast.evaluations_per_run == 3  # step 2, step 4, and the base beside step 4 for the KL
    assert forecast.seconds is None
    assert forecast.disk_bytes is None
    assert f"`oblong scan {recipe.model} --spectrum full -o {recipe.output}/scan.jsonl`" in forecast.notes[0]
    assert not Path(recipe.output).exists()


def test_with_a_scan_a_few_steps_are_timed_and_nothing_is_left_behind(
    recipe: CompareRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(recipe.output) / "scan.jsonl"
    found = scan(recipe.model, output=file)
    before = sorted(Path(recipe.output).rglob("*"))
    monkeypatch.setattr(module, "time_evaluation", lambda recipe, threads: BESIDE)
    asked = recipe.model_copy(update={"suite": ("small",), "noise_floor": 2})
    forecast = forecast_comparison(asked)
    assert sorted(Path(recipe.output).rglob("*")) == before
    (lowest, random) = forecast.arms
    assert (lowest.arm, lowest.num_left, lowest.data_free) == ("kappa-lowest", 6, True)
    assert lowest.seconds_per_step == random.seconds_per_step  # both train plainly: one kind
    assert 0 < random.seconds_per_step < 60
    assert random.seconds_before >= 0.25
    # 4 steps, 3 evaluations and the questions; 12 runs, 5 at a time, after the base with its noise floor.
    run = random.seconds_before + 4 * random.seconds_per_step + 3 * 0.5 + 3.0
    assert random.seconds_per_run == pytest.approx(run)
    assert forecast.seconds == pytest.approx(2 * 0.5 + 3.0 + 3 * run)
    plans = plan_arms(found, recipe)
    sizes = sorted(plans[cell.arm, cell.seed].totals.num_parameters for cell in iter_cells(recipe))
    assert forecast.disk_bytes == 2 * sum(sizes) + 12 * sum(sizes[-5:])
    assert forecast.memory_bytes is not None
    assert forecast.memory_bytes > 10**8


def test_what_is_done_is_counted_and_speaks_for_its_arm(recipe: CompareRecipe, tmp_path: Path) -> None:
    scan(recipe.model, output=Path(recipe.output) / "scan.jsonl")
    cells = list(iter_cells(recipe))
    threads = default_threads(5)
    base = make_base_job(recipe, threads)
    job = make_job(recipe, cells[0], threads)
    plan = Path(str((job.tune or {})["plan"]))
    make_plan(tmp_path / "model").write(plan)
    for todo in (base, job):
        todo.prepare()
        carry_out(todo)
    forecast = forecast_comparison(recipe)
    assert forecast.num_done == 1
    assert [arm.num_left for arm in forecast.arms] == [5, 6]
    assert forecast.arms[0].seconds_per_step == pytest.approx(job.read_run().seconds / 4)
    assert "finished runs" in forecast.notes[-1]
    assert forecast.seconds_per_suite is None  # no questions are asked


def test_a_method_is_timed_with_what_it_measures_before(recipe: CompareRecipe) -> None:
    anchor = {"sources": [SELF_GENERATED, "bundled:english-prose"], "blocks": 64, "batch_size": 4}
    arms = {
        "plain": {"criterion": "random"},
        "mofo": {"matches": "plain", "method": "mofo"},
        "ewc": {"matches": "plain", "method": {"name": "ewc", "blocks": 40}},
    }
    fields = recipe.model_dump(mode="json") | {"arms": arms, "control": "plain", "learning_rates": None, "seeds": [0]}
    recipe = build_compare_recipe({**fields, "train": {**recipe.train, "anchor": anchor}}, Path("recipe.yaml"))
    job = make_job(recipe, next(cell for cell in iter_cells(recipe) if cell.arm == "ewc"), 1)
    plans = plan_arms(scan(recipe.model), recipe)
    shortened = shorten_training(job, plans["ewc", 0], Path(recipe.model))
    assert shortened.anchor is not None
    assert (shortened.steps, shortened.anchor.blocks) == (3, 8)
    assert shortened.anchor.sources == (recipe.train["data"],) * 2  # as many tasks, and nothing is generated
    assert count_readings(job, shortened) == 40 / 16  # of 128 blocks the method reads 40, and 2 x 8 were timed
    jobs = [make_job(recipe, cell, 1) for cell in iter_cells(recipe)]
    named: list[str] = []
    timings = time_arms(recipe, jobs, plans, BESIDE, on_timing=named.append)
    assert set(named) == set(timings) == {"plain", "mofo", "ewc"}
    assert timings["ewc"].seconds_before > BESIDE.seconds_to_load + BESIDE.seconds_per_anchor
    assert timings["plain"].seconds_before < timings["ewc"].seconds_before


def test_generating_old_data_and_answering_questions_are_scaled_to_the_whole(
    recipe: CompareRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(
        "oblong.comparing.timing.time.perf_counter", lambda: float(next(clock))
    )  # whatever is timed takes a second
    monkeypatch.setattr(timing, "build_anchor", lambda *args, **options: None)
    monkeypatch.setattr(timing, "answer_task", lambda *args, **options: None)
    loaded = load_tiny(Path(recipe.model))
    anchor = {"sources": [SELF_GENERATED], "blocks": 33, "batch_size": 4}
    generating = recipe.model_copy(update={"train": {**recipe.train, "anchor": anchor}})
    assert time_anchor(generating, loaded) == 9  # batches of 4 for 33 blocks
    assert time_anchor(recipe, loaded) == 0
    asked = recipe.model_copy(update={"suite": ("cities", "arithmetic"), "suite_limit": 20})
    assert time_suite(asked, loaded) == 2 * 20 / 8
    assert list_uncounted_tasks(asked.model_copy(update={"suite": ("cities", "hellaswag")})) == ("hellaswag",)


def test_runs_go_to_the_worker_that_is_free_first() -> None:
    assert schedule([3.0, 1.0, 1.0, 2.0], 2) == 4.0
    assert schedule([], 2) == 0.0


def test_epochs_give_no_number_of_steps(recipe: CompareRecipe) -> None:
    train: dict[str, Any] = {**recipe.train, "epochs": 1}
    del train["steps"]
    forecast = forecast_comparison(recipe.model_copy(update={"train": train}))
    assert forecast.steps_per_run is None
    assert forecast.tokens_per_run is None
    assert isinstance(Forecast.model_validate_json(forecast.model_dump_json()), Forecast)
