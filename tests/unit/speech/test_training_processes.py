"""What several processes divide, and which launches are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from oblong.errors import UserError
from oblong.speech.training.forecast import forecast_training
from oblong.speech.training.processes import ALONE, Processes, join_processes, refuse_idle_processes
from oblong.speech.training.sharding import find_layers
from tests.training_builders import make_data, make_recipe

LAUNCHED = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(("count", "num_items"), [(1, 5), (2, 5), (2, 4), (4, 5), (8, 3)])
def test_items_are_dealt_in_equal_numbers_and_none_is_left_out(count: int, num_items: int) -> None:
    items = [f"item {number}" for number in range(num_items)]
    shares = [list(Processes(rank=rank, count=count).deal(items)) for rank in range(count)]
    assert len({len(share) for share in shares}) == 1
    dealt = dict(pair for share in shares for pair in share)
    assert [dealt[place] for place in sorted(dealt)] == items


def test_alone_nothing_is_touched() -> None:
    parameter = nn.Parameter(torch.ones(2))
    ALONE.add_gradients([parameter])
    assert parameter.grad is None
    assert ALONE.add(0.1, 3) == [0.1, 3]
    assert ALONE.collect({1: "b", 0: "a"}) == ["a", "b"]
    with pytest.raises(ZeroDivisionError):
        ALONE.first(lambda: 1 // 0)


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with join_processes() as processes:
        assert processes is ALONE


def refuse(monkeypatch: pytest.MonkeyPatch, match: str, **environment: str | None) -> None:
    """Joining raises a UserError in this environment; None takes a variable out."""
    for name, value in (LAUNCHED | environment).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=match), join_processes():
        pass


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(
        monkeypatch,
        r"WORLD_SIZE is 2, but RANK, MASTER_ADDR is not set: start with torchrun",
        RANK=None,
        MASTER_ADDR=None,
    )


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_launchers_that_wrap_the_whole_model_are_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    refuse(monkeypatch, r"--multi_gpu.*shard_frozen: true", **{variable: "true"})


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    refuse(monkeypatch, r"PyTorch sees 1 GPUs: one process per GPU", LOCAL_RANK="1")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"batch": {"max_utterances": 2}}, "batch"),
        ({"spell": {"batch": {"max_utterances": 2}}}, "spell.batch"),
        ({"batch": {"max_utterances": 2}, "spell": {"batch": {"max_utterances": 9}}}, "batch"),
    ],
)
def test_more_processes_than_a_batch_of_some_stage_has_utterances_are_refused(
    tmp_path: Path, changes: dict[str, Any], name: str
) -> None:
    recipe = make_recipe(tmp_path, **{"batch": {"max_utterances": 4}, **changes})
    refuse_idle_processes(recipe, 2)
    with pytest.raises(UserError, match=rf" and {name}\.max_utterances is 2: raise it to 3"):
        refuse_idle_processes(recipe, 3)


def test_a_lesson_with_the_batches_of_the_other_stages_is_judged_once(tmp_path: Path) -> None:
    refuse_idle_processes(make_recipe(tmp_path, spell=True), 4)


def test_layers_are_the_largest_list() -> None:
    layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    assert find_layers(nn.ModuleDict({"small": nn.ModuleList([nn.Linear(1, 1)]), "layers": layers})) is layers
    with pytest.raises(UserError, match="shard_frozen: false"):
        find_layers(nn.Linear(2, 2))


def test_a_forecast_counts_what_each_gpu_holds(tmp_path: Path) -> None:
    folder = make_data(tmp_path)
    recipe = make_recipe(folder, adapt={"arm": {"lora": {"rank": 2}}, "steps": 1})
    sharded = recipe.model_copy(update={"shard_frozen": True})
    one = forecast_training(recipe, folder)
    whole = forecast_training(recipe, folder, num_processes=2)
    divided = forecast_training(sharded, folder, num_processes=2)
    assert forecast_training(sharded, folder).weight_bytes == one.weight_bytes == whole.weight_bytes
    assert whole.tokens_per_step == -(-one.tokens_per_step // 2)
    assert divided.sharded_bytes > 0
    assert one.weight_bytes - divided.weight_bytes == divided.sharded_bytes // 2
    assert divided.optimizer_bytes == one.optimizer_bytes
    with pytest.raises(UserError, match="8 processes share each batch"):
        forecast_training(recipe, folder, num_processes=8)
