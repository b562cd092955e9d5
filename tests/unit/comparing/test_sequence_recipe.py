"""`tasks:` and `relearn:` in a comparison's recipe: what they come to, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from oblong.cli.main import run
from oblong.comparing.cells import iter_cells
from oblong.comparing.compare import check_corpora, make_job
from oblong.comparing.forecast import forecast_comparison
from oblong.comparing.recipe import CompareRecipe, build_compare_recipe, read_compare_recipe
from oblong.errors import DataError, RecipeError
from oblong.recipes import recipe_path
from oblong.scanning import scan
from tests.sequence_builders import PLAIN, make_sequence_data, make_task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_sequence_data(tmp_path)
    return tmp_path


def build(folder: Path, **changes: Any) -> CompareRecipe:
    return build_compare_recipe(make_sequence_data(folder, **changes), Path("recipe.yaml"))


def test_tasks_have_the_hyper_parameters_of_train_and_steps_of_their_own(folder: Path) -> None:
    recipe = build(folder)
    first, second = recipe.list_trainings()
    assert (first["steps"], second["steps"]) == (4, 3)
    assert first["learning_rate"] == second["learning_rate"] == 0.01
    assert {name: corpus.new_domain for name, corpus in recipe.corpora.items()} == {
        "loud": True,
        "digits": True,
        "old": False,
    }
    job = make_job(recipe, next(iter_cells(recipe)), 1)
    assert [task.name for task in job.tasks] == ["loud", "digits"]
    assert job.tune is not None
    assert not {"data", "steps"} & job.tune.keys()
    assert [task.train["data"]["skip"] for task in job.tasks] == [3, 3]


def test_steps_of_a_task_take_the_place_of_epochs(folder: Path) -> None:
    train = {**make_sequence_data(folder)["train"], "epochs": 1}
    del train["steps"]
    first, second = build(folder, train=train).list_trainings()
    assert "steps" not in first
    assert first["epochs"] == 1
    assert second["steps"] == 3
    assert "epochs" not in second


def with_train(folder: Path, **fields: Any) -> dict[str, Any]:
    return {"train": {**make_sequence_data(folder)["train"], **fields}}


REFUSED: list[tuple[Any, str]] = [
    (lambda f: {"tasks": [make_task(f, "loud")]}, "tasks: one task is no sequence: name a second"),
    (lambda f: with_train(f, data="x.txt"), "tasks: each names its own text, so train.data may not be given"),
    (lambda f: with_train(f, after="run"), "train: after is given by the comparison itself, leave it out"),
    (lambda f: {"tasks": [make_task(f, "loud"), make_task(f, "loud")]}, "tasks: loud names two texts"),
    (
        lambda f: {"tasks": [make_task(f, "loud"), {**make_task(f, "digits"), "name": "old"}]},
        "tasks: old names two texts",
    ),
    (
        lambda f: {"evaluate": {"old": {"data": "o", "new_domain": True}}},
        "evaluate: old: the texts of the tasks are the",
    ),
    (lambda f: {"evaluate_at": [2]}, "evaluate_at: a sequence is evaluated after every task: leave it out"),
    (lambda f: {"hopeless": {"margin": 0.1}}, "hopeless: is judged at steps on the way, and a sequence is evaluated"),
    (lambda f: {"tasks": [{"name": "loud"}]}, "tasks.0.data: Field required"),
    (lambda f: with_train(f, warmup_steps=4), "train.(whole file): warmup_steps (4) is more than steps (3)"),
    (
        lambda f: {"relearn": {"data": "x", "steps": 1, "texts": ["new"]}},
        "relearn.texts: new is none of loud, digits, old",
    ),
    (
        lambda f: {"relearn": {"data": "x", "steps": 1}, "evaluate": {}},
        "relearn: there is no retention text in evaluate",
    ),
    (lambda f: {"relearn": {"data": "x"}}, "relearn.steps: Field required"),
    (lambda f: {"arms": {"plain": {**PLAIN, "method": "pnn"}}}, "pnn adds modules to the model and must be told"),
    (lambda f: {"arms": {"plain": {**PLAIN, "method": "expert_gate"}}}, "expert_gate adds modules to the model"),
    (
        lambda f: {"arms": {"plain": {**PLAIN, "method": "information_bottleneck"}}},
        "arms.plain: method information_bottleneck adds modules to the model, which a delta checkpoint cannot hold",
    ),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_cannot_be_a_sequence_is_refused_before_any_run(folder: Path, change: Any, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build(folder, **change(folder))
    assert message in " ".join(str(caught.value).split())


def test_a_mistake_of_train_is_said_once(folder: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        build(folder, **with_train(folder, learning_rate=-1))
    assert len(caught.value.problems) == 1


def test_held_out_documents_may_not_be_relearned(folder: Path) -> None:
    relearn = {"data": str(folder / "old.jsonl"), "steps": 1}
    with pytest.raises(DataError, match=r"has documents of the held-out text old in it.*leave them out with skip"):
        check_corpora(build(folder, relearn=relearn))
    check_corpora(build(folder, relearn={"data": {"source": str(folder / "old.jsonl"), "skip": 3}, "steps": 1}))
    earlier = {"data": {"source": str(folder / "loud.jsonl"), "skip": 3}, "steps": 1, "texts": ["loud"]}
    recipe = build(folder, relearn=earlier)
    check_corpora(recipe)
    assert recipe.relearned_texts == ("loud",)


def test_the_forecast_counts_all_tasks_and_the_relearning(folder: Path) -> None:
    relearn = {"data": {"source": str(folder / "old.jsonl"), "skip": 3}, "steps": 5}
    forecast = forecast_comparison(build(folder, relearn=relearn, divergence=True))
    assert (forecast.num_runs, forecast.steps_per_run, forecast.relearning_steps_per_run) == (2, 7, 10)
    assert forecast.tokens_per_run == 7 * 2 * 32
    # after the first task; after the last, and the base beside it; the two models after relearning
    assert forecast.evaluations_per_run == 1 + 2 + 2


def test_every_arm_of_a_sequence_is_timed_on_its_first_task(folder: Path) -> None:
    relearn = {"data": {"source": str(folder / "old.jsonl"), "skip": 3}, "steps": 5}
    recipe = build(folder, relearn=relearn)
    scan(recipe.model, output=Path(recipe.output) / "scan.jsonl")
    forecast = forecast_comparison(recipe)
    assert [arm.arm for arm in forecast.arms] == ["plain", "ewc"]
    for arm in forecast.arms:
        # two tasks, each with its start; seven steps and ten of relearning
        assert arm.seconds_per_run is not None
        assert arm.seconds_per_run > 2 * arm.seconds_before + (7 + 10) * arm.seconds_per_step
    assert [arm.data_free for arm in forecast.arms] == [True, False]


def test_a_text_on_the_command_line_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(make_sequence_data(folder)))
    assert run(["compare", str(file), "--data", str(folder / "old.jsonl"), "--dry-run"]) == 2
    assert "learns a sequence of tasks, each from its own text" in " ".join(capsys.readouterr().err.split())


def test_the_shipped_recipe_holds_out_what_it_trains_on() -> None:
    recipe = read_compare_recipe(recipe_path("sequence"))
    assert [task.name for task in recipe.tasks] == ["german", "office", "python"]
    check_corpora(recipe)
    python = recipe.tasks[2]
    assert python.data.skip == python.evaluate.documents
