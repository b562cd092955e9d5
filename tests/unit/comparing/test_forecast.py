"""`--dry-run`: what is counted, what is timed, and that nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oblong.comparing import forecast as module
from oblong.comparing.cells import iter_cells
from oblong.comparing.compare import make_base_job, make_job, plan_arms
from oblong.comparing.forecast import Forecast, forecast_comparison
from oblong.comparing.recipe import CompareRecipe, build_compare_recipe
from oblong.comparing.runner import default_threads
from oblong.comparing.worker import carry_out
from oblong.scanning import scan
from tests.tuning_builders import TEXTS, make_plan, save_tiny_llama, write_text


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
    assert "oblong scan" in forecast.notes[0]
    assert not Path(recipe.output).exists()


def test_with_a_scan_a_few_steps_are_timed_and_nothing_is_left_behind(
    recipe: CompareRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(recipe.output) / "scan.jsonl"
    found = scan(recipe.model, output=file)
    before = sorted(Path(recipe.output).rglob("*"))
    monkeypatch.setattr(module, "time_evaluation", lambda recipe, threads: 0.5)
    forecast = forecast_comparison(recipe)
    assert sorted(Path(recipe.output).rglob("*")) == before
    assert forecast.seconds_per_step is not None
    assert 0 < forecast.seconds_per_step < 60
    # 12 runs, 5 at a time: 3 rounds of 4 steps and 3 evaluations.
    assert forecast.seconds == pytest.approx(3 * (4 * forecast.seconds_per_step + 3 * 0.5))
    plans = plan_arms(found, recipe)
    sizes = sorted(plans[cell.arm, cell.seed].totals.num_parameters for cell in iter_cells(recipe))
    assert forecast.disk_bytes == 2 * sum(sizes) + 12 * sum(sizes[-5:])
    assert forecast.memory_bytes is not None
    assert forecast.memory_bytes > 10**8


def test_what_is_done_is_counted_and_speaks_for_the_rest(recipe: CompareRecipe, tmp_path: Path) -> None:
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
    assert forecast.seconds_per_step == pytest.approx(job.read_run().seconds / 4)
    assert "finished runs" in forecast.notes[-1]


def test_epochs_give_no_number_of_steps(recipe: CompareRecipe) -> None:
    train: dict[str, Any] = {**recipe.train, "epochs": 1}
    del train["steps"]
    forecast = forecast_comparison(recipe.model_copy(update={"train": train}))
    assert forecast.steps_per_run is None
    assert forecast.tokens_per_run is None
    assert isinstance(Forecast.model_validate_json(forecast.model_dump_json()), Forecast)
