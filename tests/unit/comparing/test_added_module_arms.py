"""Columns and experts as arms of a comparison of task sequences: untold, told, forecast, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from oblong.comparing.assembling import assemble
from oblong.comparing.cells import iter_cells
from oblong.comparing.compare import (
    Watcher,
    locate_plan,
    make_base_job,
    make_job,
    obtain_scan,
    plan_arms,
    write_plan,
)
from oblong.comparing.forecast import forecast_comparison
from oblong.comparing.recipe import CompareRecipe, build_compare_recipe
from oblong.comparing.worker import carry_out
from oblong.errors import RecipeError
from oblong.records import Comparison
from oblong.reporting.html import render_report
from tests.sequence_builders import PLAIN, make_sequence_data

COLUMNS = {"adapter": {"columns": {"rank": 2}}}
ROUTED = {"adapter": {"experts": {"rank": 2, "routing": "softmax"}}}
ARMS: Mapping[str, Any] = {"plain": PLAIN, "columns": COLUMNS, "routed": ROUTED}


def build(folder: Path, **changes: Any) -> CompareRecipe:
    return build_compare_recipe(make_sequence_data(folder, **changes), Path("recipe.yaml"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> CompareRecipe:
    folder = tmp_path_factory.mktemp("arms")
    relearn = {"data": {"source": str(folder / "old.jsonl"), "skip": 3}, "steps": 1}
    recipe = build(folder, arms=ARMS, divergence=True, relearn=relearn)
    obtain_scan(recipe, Watcher())
    return recipe


@pytest.fixture(scope="module")
def comparison(prepared: CompareRecipe) -> Comparison:
    plans = plan_arms(obtain_scan(prepared, Watcher()), prepared)
    for (arm, seed), plan in plans.items():
        write_plan(plan, locate_plan(prepared, arm, seed))
    base = make_base_job(prepared, 1)
    jobs = {cell: make_job(prepared, cell, 1) for cell in iter_cells(prepared)}
    for job in (base, *jobs.values()):
        job.prepare()
        carry_out(job)
    file = Path(prepared.output) / "comparison.json"
    assemble(prepared, {arm: plans[arm, 0] for arm in prepared.arms}, base, jobs, file)
    return Comparison.read(file)


def test_told_the_task_its_part_answers_as_it_did_when_the_task_ended(comparison: Comparison) -> None:
    assert comparison.sequence is not None
    ways = [(arm.arm, arm.told) for arm in comparison.sequence.arms]
    assert ways == [("plain", False), ("columns", False), ("columns", True), ("routed", False), ("routed", True)]
    for name in ("columns", "routed"):
        first, second = next(run.tasks for run in comparison.runs if run.arm == name)
        assert first.told is not None
        assert second.told is not None
        assert list(second.told.corpora) == ["loud", "digits"]
        assert second.told.corpora["loud"].documents == first.told.corpora["loud"].documents
        assert second.told.corpora["loud"].answered == {"base": 0, "loud": 1, "digits": 0}
        assert second.told.corpora["digits"].documents != comparison.base.corpora["digits"].documents
        assert second.evaluation is not None
        assert second.evaluation.drift is not None
        assert second.evaluation.drift.num_changed_tensors == 0
        assert second.run.recipe["after"] == first.run.recipe["output"]
        told = next(arm for arm in comparison.sequence.arms if arm.arm == name and arm.told)
        assert told.measures is not None
        assert told.measures.backward_transfer.value.mean == 0
    old = next(run.evaluation for run in comparison.runs if run.arm == "columns").corpora["old"]
    assert old.answered is not None
    assert old.answered["base"] > 0.5
    assert [(run.arm, run.relearning is None) for run in comparison.runs] == [
        ("plain", False),
        ("columns", True),
        ("routed", True),
    ]
    assert comparison.data_free == {"plain": True, "columns": False, "routed": True}


def test_the_report_shows_an_arm_whose_plan_has_no_tensors(comparison: Comparison) -> None:
    page = render_report(comparison=comparison)
    assert "columns, told the task" in page
    assert "no tensor of it" in page


def test_the_forecast_counts_what_is_trained_beside_the_base(prepared: CompareRecipe) -> None:
    forecast = forecast_comparison(prepared.model_copy(update={"output": f"{prepared.output}-later"}))
    assert forecast.arms == ()  # there is no Scan there
    scanned = prepared.model_copy(
        update={"output": f"{prepared.output}-later", "scan": str(Path(prepared.output) / "scan.jsonl")}
    )
    counted = {arm.arm: arm.num_trainable for arm in forecast_comparison(scanned).arms}
    # Two layers: a reader and a writer of 2 x 32 and a scale; A and B on q (32) and v (16), and the router of 2 x 33.
    assert counted["columns"] == 2 * (2 * 2 * 32 + 1)
    assert counted["routed"] == 2 * 2 * (64 + 48) + 2 * 33


@pytest.mark.parametrize(
    ("arm", "has_anchor", "message"),
    [
        ({"adapter": "experts"}, False, "give anchor, the old data that the method of it needs"),
        ({"adapter": {"columns": {"gate": True}}}, False, "give anchor, the old data"),
        ({**COLUMNS, "plan": "p.yaml"}, True, "columns trains no tensor of the base: leave the plan out"),
        ({**COLUMNS, "budget": "1M"}, True, "columns has none: leave the arm's budget out"),
        ({**COLUMNS, "method": "packnet"}, True, r"arms\.it: method packnet works on the model's weights"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, arm: dict[str, Any], has_anchor: bool, message: str
) -> None:
    data = make_sequence_data(tmp_path, arms={"plain": PLAIN, "it": arm})
    if not has_anchor:
        del data["train"]["anchor"]
    with pytest.raises(RecipeError, match=message):
        build_compare_recipe(data, Path("recipe.yaml"))
