"""A run that goes on from a finished one: weights, memory and old data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oblong.cli.main import run as run_command
from oblong.errors import PlanMismatchError, RecordError, UserError
from oblong.models.packing import pack_documents
from oblong.records import Run, RunStatus
from oblong.tuning import tune, verify_run
from oblong.tuning.anchor import read_anchor
from oblong.tuning.chaining import MEMORY_FILE, read_memory
from oblong.tuning.recipe import build_recipe
from oblong.tuning.workspace import ANCHOR_FILE
from tests.tuning_builders import TEXTS, make_plan, make_recipe, make_tokenizer, write_text

STILL: dict[str, Any] = {"learning_rate": 1e-12, "steps": 1}
EWC = {"method": "ewc", "anchor": {"sources": "old.jsonl", "blocks": 3}}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of EWC that kept its memory."""
    folder = tmp_path_factory.mktemp("chain")
    write_text(folder / "old.jsonl", [text[::-1] for text in TEXTS])
    write_text(folder / "second.jsonl", [text.upper() for text in TEXTS])
    tune(make_recipe(folder, **locate(EWC, folder), keep_for_next=True, threads=1, steps=3))
    return folder


def locate(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {**fields, "anchor": {**fields["anchor"], "sources": str(folder / "old.jsonl")}}


def go_on(folder: Path, name: str, **fields: Any) -> Run:
    defaults: dict[str, Any] = {"after": str(folder / "run"), "data": str(folder / "second.jsonl"), "threads": 1}
    return tune(make_recipe(folder, output=str(folder / name), **(defaults | fields)))


def read_delta(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / name / "delta" / "delta.safetensors")


@pytest.mark.parametrize("adapter", [None, {"lora": {"rank": 2}}])
def test_it_starts_from_the_weights_and_its_delta_is_relative_to_the_base(first: Path, adapter: Any) -> None:
    name = f"still-{adapter is None}"
    go_on(first, name, adapter=adapter, **STILL)
    before, after = read_delta(first, "run"), read_delta(first, name)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[tensor]) for tensor, value in before.items())
    assert verify_run(first / name).fraction_moved == verify_run(first / "run").fraction_moved > 0


def test_the_memory_and_the_text_of_the_task_before_come_along(first: Path) -> None:
    go_on(first, "second", **locate(EWC, first), keep_for_next=True)
    recipe = make_recipe(first, **locate(EWC, first))
    assert recipe.anchor is not None
    before, after = (read_anchor(first / name / ANCHOR_FILE, recipe.anchor) for name in ("run", "second"))
    assert torch.equal(after.blocks[:3], before.blocks)
    assert (after.sources, after.tasks.tolist()) == ((*before.sources, "text"), [0] * 3 + [1] * 3)
    own = pack_documents(TEXTS, make_tokenizer(), 32, source="text")
    assert all(any(torch.equal(block, other) for other in own) for block in after.blocks[3:])
    kept, added = (torch.load(first / name / MEMORY_FILE)["importance"] for name in ("run", "second"))
    # Each Fisher information has mean 1; the second run's is added to the first's.
    assert all((added[tensor] >= kept[tensor]).all() for tensor in kept)
    size = sum(value.numel() for value in kept.values())
    assert sum(float(value.sum()) for value in added.values()) / size == pytest.approx(2, rel=1e-4)
    go_on(first, "third", **locate(EWC, first), after=str(first / "second"))
    assert read_anchor(first / "third" / ANCHOR_FILE, recipe.anchor).sources[1:] == ("text", "second")
    assert not (first / "third" / MEMORY_FILE).exists()


def test_another_method_starts_without_memory(first: Path) -> None:
    go_on(first, "other-method", method="l2_sp")
    with pytest.raises(UserError, match="did not keep what its method knows: repeat it with `keep_for_next: true`"):
        go_on(first, "forgetful", method="l2_sp", after=str(first / "other-method"))


def test_what_cannot_be_gone_on_from_is_refused(first: Path, tmp_path: Path) -> None:
    make_plan(first / "model", ["model.layers.0.mlp.down_proj.weight"]).write(tmp_path / "other.yaml")
    with pytest.raises(PlanMismatchError, match="trained other tensors than the Plan of this run"):
        go_on(first, "other-plan", plan=str(tmp_path / "other.yaml"))
    with pytest.raises(RecordError, match="no such file"):
        go_on(first, "nowhere", after=str(first / "missing"))
    go_on(first, "broken", **STILL)
    record = Run.read(first / "broken" / "run.json")
    record.model_copy(update={"status": RunStatus.DIVERGED}).write(first / "broken" / "run.json", force=True)
    with pytest.raises(UserError, match="broken diverged, so there is nothing to go on from"):
        go_on(first, "on-nan", after=str(first / "broken"))
    (first / "broken" / MEMORY_FILE).write_bytes(b"PK no archive")
    with pytest.raises(RecordError, match=r"memory\.pt.* cannot be read .* repeat the run"):
        read_memory(first / "broken")


def test_an_arm_that_sees_text_of_the_task_before_is_not_data_free() -> None:
    fields = {"model": "m", "plan": "p", "data": "d", "output": "o", "steps": 1, "anchor": "self_generated"}
    for method, is_data_free in (("ewc", False), ("replay", False), ("si", True), ("l2_sp", True)):
        assert build_recipe({**fields, "method": method, "after": "run"}).is_data_free is is_data_free
        assert build_recipe({**fields, "method": method}).is_data_free


def test_the_command_line_goes_on_too(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = make_recipe(first, output=str(first / "by-command"), **STILL)
    file = first / "recipe.yaml"
    file.write_text(recipe.to_yaml())
    assert run_command(["tune", str(file), "--after", str(first / "run"), "--skip", "11", "--keep-for-next"]) == 0
    record = Run.read(first / "by-command" / "run.json")
    assert record.data.num_documents == 1
    assert all(
        torch.equal(value, read_delta(first, "by-command")[name]) for name, value in read_delta(first, "run").items()
    )
    assert (first / "by-command" / MEMORY_FILE).exists()
