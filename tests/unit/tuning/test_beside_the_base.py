"""Columns and experts from a recipe: what trains, what the delta holds, the next task, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from oblong.checkpoints.delta import MODULES_FILE, read_delta
from oblong.corpora import Documents
from oblong.errors import PlanMismatchError, RecipeError, SelectionError, UserError, VerificationError
from oblong.evaluation.evaluate import Corpus, evaluate
from oblong.models.added_modules import find_added
from oblong.models.causal_lm import load_causal_lm
from oblong.records import Run
from oblong.tuning import merge_run, probe_relearning, tune, verify_run
from oblong.tuning.recipe import TuneRecipe
from tests.sequence_builders import DIGITS
from tests.tuning_builders import NUM_LAYERS, TEXTS, make_plan, make_recipe, save_tiny_llama, write_text

WIDTH, KEYS = 32, 16
COLUMNS = {"columns": {"rank": 3}}
GATED = {"experts": {"rank": 2}}
DRAWN = {"experts": {"rank": 2, "routing": "gumbel", "targets": "all-linear"}}
MIXED = {"experts": {"rank": 2, "routing": "softmax"}}
TOKENS = torch.arange(40).reshape(2, 20)


def make(folder: Path, adapter: Any, output: str = "run", **fields: Any) -> TuneRecipe:
    if not (folder / "old.jsonl").exists():
        write_text(folder / "old.jsonl", DIGITS)
        write_text(folder / "second.jsonl", [text.upper() for text in TEXTS])
    anchor = {"sources": str(folder / "old.jsonl"), "blocks": 4}
    defaults: dict[str, Any] = {"plan": None, "adapter": adapter, "anchor": anchor, "steps": 3, "threads": 1}
    return make_recipe(folder, output=str(folder / output), **(defaults | fields))


def go_on(folder: Path, adapter: Any, output: str, *, after: str, **fields: Any) -> Run:
    data = str(folder / "second.jsonl")
    return tune(make(folder, adapter, output, **({"after": str(folder / after), "data": data} | fields)))


@torch.no_grad()
def read(folder: Path, output: str | None, *, told: int | None = None) -> Tensor:
    """Logits of the model with a run's delta on it."""
    delta = None if output is None else folder / output / "delta"
    model: Any = load_causal_lm(str(folder / "model"), delta=delta).model
    added = find_added(model)
    if added is not None:
        added.told = told
    logits: Tensor = model(TOKENS).logits
    return logits


def read_modules(folder: Path, output: str) -> dict[str, Tensor]:
    return dict(read_delta(folder / output / "delta").modules)


def is_bit_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module", params=["columns", "experts", "softmax"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with two finished tasks, one after the other, and their adapter."""
    adapter = {"columns": COLUMNS, "experts": GATED, "softmax": MIXED}[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    tune(make(folder, adapter, "one"))
    go_on(folder, adapter, "two", after="one")
    return folder, adapter


def test_the_delta_holds_modules_and_no_tensor_of_the_base(chain: tuple[Path, Any]) -> None:
    folder, _ = chain
    delta = read_delta(folder / "two" / "delta")
    modules = delta.manifest.modules
    assert modules is not None
    assert modules.tasks == ("text", "second")
    assert (delta.tensors, delta.manifest.changed) == ({}, {})
    assert delta.manifest.frozen.keys() == load_file(folder / "model" / "model.safetensors").keys()
    verification = verify_run(folder / "two")
    assert verification.modules == modules.kind
    assert [check.num_tensors for check in verification.checks] == [len(delta.manifest.frozen), len(delta.modules)]


def test_the_base_and_the_first_task_say_what_they_said_bit_for_bit(chain: tuple[Path, Any]) -> None:
    folder, _ = chain
    base = read(folder, None)
    for output in ("one", "two"):
        assert torch.equal(read(folder, output, told=0), base)
    first = read(folder, "one", told=1)
    assert not torch.equal(first, base)
    assert torch.equal(read(folder, "two", told=1), first)
    assert not torch.equal(read(folder, "two", told=2), first)


def test_an_evaluation_says_who_answered(chain: tuple[Path, Any]) -> None:
    folder, adapter = chain
    corpora = [
        Corpus(documents=Documents(name=name, source="-", texts=texts))
        for name, texts in (("old", DIGITS), ("text", TEXTS), ("second", tuple(text.upper() for text in TEXTS)))
    ]
    found = evaluate(
        str(folder / "model"), corpora, delta=folder / "two" / "delta", base=str(folder / "model"), window=64, stride=64
    )
    assert found.drift is not None
    assert found.drift.num_changed_tensors == 0
    for name, score in found.corpora.items():
        assert score.answered is not None
        assert list(score.answered) == ["base", "text", "second"]
        assert sum(score.answered.values()) == pytest.approx(1)
        if adapter is not MIXED:
            assert score.answered[{"old": "base"}.get(name, name)] > 0.6
    assert evaluate(str(folder / "model"), corpora, window=64, stride=64).corpora["old"].answered is None


def test_they_cannot_be_merged_or_relearned_and_tampering_shows(chain: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = chain
    with pytest.raises(UserError, match="more modules than its architecture has"):
        merge_run(folder / "one", tmp_path / "merged")
    with pytest.raises(UserError, match="more modules than its architecture has"):
        verify_run(folder / "one", merged=str(folder / "model"))
    old_text = Documents(name="old", source=str(folder / "old.jsonl"), texts=TEXTS)
    with pytest.raises(UserError, match="beside the base, which is there bit for bit"):
        probe_relearning(folder / "one", old_text, [], steps=1)
    copied = Path(shutil.copytree(folder / "one", tmp_path / "copy"))
    tensors = load_file(copied / "delta" / MODULES_FILE)
    name = next(name for name in tensors if "writer" in name)
    tensors[name][0, 0] += 1
    save_file(tensors, copied / "delta" / MODULES_FILE)
    with pytest.raises(VerificationError, match=f"added {name}: its bytes are not those"):
        verify_run(copied)


def test_another_sort_does_not_go_on(chain: tuple[Path, Any]) -> None:
    folder, adapter = chain
    with pytest.raises(PlanMismatchError, match="adds modules beside the base, and this run changes tensors"):
        go_on(folder, None, "plan", after="one", plan=str(folder / "plan.yaml"))
    other = GATED if adapter is COLUMNS else COLUMNS
    with pytest.raises(UserError, match="give both the same adapter"):
        go_on(folder, other, "other", after="one")


def count(folder: Path, adapter: Any, **fields: Any) -> int:
    return tune(make(folder, adapter, "counted", **({"steps": 1} | fields))).num_trainable


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (COLUMNS, NUM_LAYERS * (3 * WIDTH + 3 * WIDTH + 1)),
        (GATED, NUM_LAYERS * 2 * ((WIDTH + WIDTH) + (WIDTH + KEYS))),
        (MIXED, NUM_LAYERS * 2 * ((WIDTH + WIDTH) + (WIDTH + KEYS)) + 2 * (WIDTH + 1)),
    ],
    ids=["columns", "gated", "mixed"],
)
def test_the_number_of_trained_parameters_is_what_it_is_by_hand(tmp_path: Path, adapter: Any, expected: int) -> None:
    assert count(tmp_path, adapter) == expected
    run = Run.read(tmp_path / "counted" / "run.json")
    assert f"{expected:,} parameters" in str(run.adapter)


def test_without_an_anchor_the_base_answers_and_the_run_says_so(tmp_path: Path) -> None:
    run = tune(make(tmp_path, COLUMNS, anchor=None))
    assert str(run.adapter).endswith("the base answers where the task is not told")
    assert torch.equal(read(tmp_path, "run"), read(tmp_path, None))
    with pytest.raises(UserError, match="that run has no gate"):
        go_on(tmp_path, {"columns": {"gate": True}}, "gated", after="run")
    # An anchor that comes with a later task cannot make up for it.
    later = go_on(tmp_path, COLUMNS, "later", after="run")
    assert str(later.adapter).endswith("the base answers where the task is not told")


class KilledError(Exception):
    """Stands for the end of the process."""


def kill(step: int, total: int, loss: float) -> None:
    if step == 4:
        raise KilledError


@pytest.mark.parametrize("adapter", [COLUMNS, DRAWN, MIXED], ids=["columns", "drawn", "mixed"])
def test_a_killed_run_ends_in_the_same_modules(tmp_path: Path, adapter: Any) -> None:
    fields: dict[str, Any] = {"save_every": 3, "steps": 6, "method": "kl_to_base", "gradient_checkpointing": True}
    straight = tune(make(tmp_path, adapter, "straight", **fields))
    cut = make(tmp_path, adapter, "cut", **fields)
    with pytest.raises(KilledError):
        tune(cut, on_progress=kill)
    assert tune(cut).history == straight.history
    assert is_bit_equal(read_modules(tmp_path, "cut"), read_modules(tmp_path, "straight"))


def test_a_resumed_run_notices_another_base(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"save_every": 3, "steps": 6, "anchor": None}
    with pytest.raises(KilledError):
        tune(make(tmp_path, COLUMNS, **fields), on_progress=kill)
    shutil.rmtree(tmp_path / "model")
    save_tiny_llama(tmp_path / "model", seed=1)
    with pytest.raises(UserError, match="the Plan's content changed"):
        tune(make(tmp_path, COLUMNS, **fields))


def test_a_plan_of_tensors_and_targets_that_are_not_there_are_refused(tmp_path: Path) -> None:
    make(tmp_path, COLUMNS)
    make_plan(tmp_path / "model").write(tmp_path / "three.yaml")
    with pytest.raises(PlanMismatchError, match="columns trains modules beside the base, and no tensor of it"):
        tune(make(tmp_path, COLUMNS, plan=str(tmp_path / "three.yaml")))
    with pytest.raises(SelectionError, match="'query'; this model has"):
        tune(make(tmp_path, {"experts": {"targets": "query"}}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adapter": GATED, "anchor": None}, "its gate must know the base by old data: give anchor.*softmax or gumbel"),
        ({"adapter": {"columns": {"gate": True}}, "anchor": None}, "give anchor.*or gate: false"),
        ({"adapter": COLUMNS, "method": "l2_sp"}, "l2_sp works on the model's weights.*adapter columns: take one of"),
        ({"adapter": {"experts": {"routing": "given"}}}, "routing"),
        ({"adapter": {"experts": {"targets": ["a.b"]}}}, "by the end of its name"),
        ({"adapter": {"columns": {}, "experts": {}}}, "give exactly one of lora, full, lisa, osf, columns, experts"),
        ({"adapter": None}, "or an adapter: lora, full, lisa, osf, columns, experts"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make(tmp_path, **({"adapter": COLUMNS} | fields))


def test_what_the_gate_reads_decides_whether_a_recipe_is_data_free(tmp_path: Path) -> None:
    assert not make(tmp_path, COLUMNS).is_data_free
    assert not make(tmp_path, COLUMNS, after="run").is_data_free
    assert make(tmp_path, {"columns": {"gate": False}}).is_data_free
    assert make(tmp_path, GATED, anchor="self_generated").is_data_free
    assert make(tmp_path, MIXED).is_data_free
    assert make(tmp_path, COLUMNS).uses_anchor
    assert not make(tmp_path, COLUMNS, after="run").uses_anchor
    assert not make(tmp_path, MIXED).uses_anchor
