"""Arms that train an adapter: their Plan, their budget, a run of each kind, and what is refused."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from oblong.comparing.cells import iter_cells
from oblong.comparing.compare import compare, locate_plan, make_base_job, make_job, plan_arm, write_plan
from oblong.comparing.forecast import forecast_comparison
from oblong.comparing.jobs import Job
from oblong.comparing.recipe import CompareRecipe, build_compare_recipe
from oblong.comparing.worker import carry_out
from oblong.errors import MissingExtraError, RecipeError
from oblong.records import Plan
from oblong.scanning import scan
from oblong.tuning.recipe import TuneRecipe
from tests.tuning_builders import TEXTS, save_tiny_llama, write_text


def make_recipe(
    folder: Path, arms: dict[str, Any], *, evaluate_at: list[int] | None = None, **train: Any
) -> CompareRecipe:
    """A comparison of a tiny model with a random arm and others; the model and texts are written there."""
    save_tiny_llama(folder / "model")
    write_text(folder / "train.jsonl")
    write_text(folder / "new.jsonl", [text.upper() for text in TEXTS[:3]])
    data = {
        "name": "tiny",
        "model": str(folder / "model"),
        "output": str(folder / "out"),
        "budget": "3000p",
        "arms": {"random": {"criterion": "random"}, **arms},
        "control": "random",
        "evaluate_at": evaluate_at or [],
        "train": {
            "data": str(folder / "train.jsonl"),
            **{"steps": 2, "sequence_length": 32, "learning_rate": 0.01, "save_every": 0},
            **train,
        },
        "evaluate": {"new": {"data": str(folder / "new.jsonl"), "new_domain": True}},
        "window": 64,
        "stride": 64,
        "divergence": False,
    }
    return build_compare_recipe(data, folder / "recipe.yaml")


def make_job_of(recipe: CompareRecipe, arm: str) -> Job:
    (cell,) = (cell for cell in iter_cells(recipe) if cell.arm == arm)
    return make_job(recipe, cell, 1)


def carry_out_prepared(job: Job) -> None:
    job.prepare()
    carry_out(job)


@pytest.mark.parametrize(
    ("arm", "num_trainable", "adapter"),
    [
        (
            {"adapter": "lora"},
            3 * 928,
            "LoRA, rank 3 (closest to 3000p), alpha 6, on 14 linear layers: 2,784 parameters",
        ),
        ({"adapter": "full", "learning_rate": 1e-3}, 15520, None),
    ],
)
def test_an_arm_with_an_adapter_is_tuned_and_evaluated(
    tmp_path: Path, arm: dict[str, Any], num_trainable: int, adapter: str | None
) -> None:
    recipe = make_recipe(tmp_path, {"it": arm}, evaluate_at=[1])
    write_plan(
        plan_arm(scan(recipe.model, output=tmp_path / "scan.jsonl"), recipe, "it", 0), locate_plan(recipe, "it", 0)
    )
    carry_out_prepared(make_base_job(recipe, 1))
    job = make_job_of(recipe, "it")
    carry_out_prepared(job)
    run = job.read_run()
    losses = [state.evaluation.corpora["new"].loss for state in job.read_states()]
    assert len(losses) == 2
    assert losses[0] > losses[1]
    assert (run.num_trainable, run.adapter, run.plan_name) == (num_trainable, adapter, "it")
    assert run.plan_digest == Plan.read(tmp_path / "out" / "it" / "seed-0.plan.yaml").digest()
    assert run.recipe["learning_rate"] == arm.get("learning_rate", 0.01)


def test_the_rank_is_the_arm_s_own_or_by_its_budget_or_by_the_comparison_s(tmp_path: Path) -> None:
    arms = {
        "own": {"adapter": {"lora": {"rank": 5}}},
        "by-arm": {"adapter": "lora", "budget": "5%"},
        "by-comparison": {"adapter": {"lora": {"alpha": 1}}},
    }
    recipe = make_recipe(tmp_path, arms)
    lora = {}
    for arm in arms:
        tune = TuneRecipe.model_validate(make_job_of(recipe, arm).tune)
        assert tune.adapter is not None
        assert tune.adapter.lora is not None
        lora[arm] = (tune.adapter.lora.rank, tune.adapter.lora.budget, tune.adapter.lora.alpha)
    assert lora == {"own": (5, None, None), "by-arm": (None, "5%", None), "by-comparison": (None, "3000p", 1.0)}


@pytest.mark.parametrize(
    ("arm", "train", "message"),
    [
        ({"adapter": "lora", "criterion": "kappa"}, {}, "criterion may not be given with it.*`oblong plan`"),
        ({"adapter": "lisa", "matches": "random"}, {}, "matches may not be given with it"),
        ({"adapter": "full", "plan": "p.yaml"}, {}, "full trains every tensor, a plan some"),
        ({"adapter": "full", "budget": "1M"}, {}, "a budget sets the rank of lora; full has none"),
        ({"adapter": "lora", "method": "l2_sp"}, {}, r"arms\.it: method l2_sp works on the model's weights"),
        ({"adapter": "lora"}, {"method": "l2_sp"}, r"arms\.it: method l2_sp works on the model's weights"),
        ({"method": "information_bottleneck"}, {}, r"arms\.it: .* adds modules to the model, which a delta checkpoint"),
        ({"method": "ewc"}, {}, "the method of it needs, for example `anchor: self_generated`"),
        ({}, {"adapter": "lora"}, "train: adapter is given by the comparison itself"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, arm: dict[str, Any], train: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        make_recipe(tmp_path, {"it": arm}, **train)


def test_an_arm_s_own_method_stands_in_for_the_shared_one(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, {"it": {"adapter": "lora", "method": "plain"}}, method="l2_sp")
    assert TuneRecipe.model_validate(make_job_of(recipe, "it").tune).method is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"arm low-rank needs .*'oblong\[adapters\]'"),
        ({"suite": ("small", "hellaswag")}, r"the suite hellaswag needs .*'oblong\[lm-eval\]'"),
    ],
)
def test_a_library_that_is_missing_is_missed_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    arms = {} if changes else {"low-rank": {"adapter": "lora"}}
    recipe = make_recipe(tmp_path, arms).model_copy(update=changes)
    monkeypatch.setattr(import_module("oblong.comparing.compare"), "find_spec", lambda name: None)
    for start in (compare, forecast_comparison):
        with pytest.raises(MissingExtraError, match=message):
            start(recipe)
    assert not Path(recipe.output).exists()
