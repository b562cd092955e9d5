from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oblong.checkpoints import open_checkpoint
from oblong.errors import MissingExtraError, OperationalError, SelectionError
from oblong.records import ScanConfig
from oblong.scanning import scan
from oblong.scanning.cache_key import Arithmetic
from oblong.scanning.on_ray import HostNotes, check_cores, make_request
from oblong.scanning.spreading import Failure, Outcome, Request, Task, list_tasks, perform
from oblong.scanning.worklist import Batch, list_batches, list_jobs, list_loads
from tests.checkpoint_builders import llama_tensors, make_weights, write_model


def make(model: Path, window_bytes: int) -> tuple[Request, tuple[Batch, ...]]:
    checkpoint = open_checkpoint(model)
    config = ScanConfig()
    request = make_request(checkpoint, config, window_bytes=window_bytes, num_threads=1, use_cache=False)
    return request, list_batches(list_loads(list_jobs(checkpoint, config)), window_bytes)


def list_all(batches: Sequence[Batch]) -> tuple[Task, ...]:
    return list_tasks(batches, lambda batch: False)


def test_tasks_are_all_batches_the_largest_first(tmp_path: Path) -> None:
    _, batches = make(write_model(tmp_path / "model"), 1)
    tasks = list_all(batches)
    assert sorted(task.first for task in tasks) == list(range(len(batches)))
    assert [task.work for task in tasks] == sorted((task.work for task in tasks), reverse=True)
    assert batches[tasks[0].first][0].tensor.name == "model.embed_tokens.weight"


def test_what_is_finished_is_no_task(tmp_path: Path) -> None:
    _, batches = make(write_model(tmp_path / "model"), 1)
    tasks = list_tasks(batches, lambda batch: batch is not batches[3])
    assert [(task.first, task.last) for task in tasks] == [(3, 3)]


def test_the_experts_of_a_stack_stay_together(tmp_path: Path) -> None:
    tensors = {
        "model.layers.0.mlp.experts.gate_up_proj": make_weights(3, 12, 20),
        "model.layers.1.mlp.experts.gate_up_proj": make_weights(2, 12, 20),
        "model.norm.weight": make_weights(12),
    }
    _, batches = make(write_model(tmp_path / "model", tensors, {"model_type": "gpt_oss"}), 1)
    assert len(batches) == 6
    assert {(task.first, task.last) for task in list_all(batches)} == {(0, 2), (3, 4), (5, 5)}


@pytest.mark.parametrize("window", [1, 5000, 1 << 20])
def test_a_worker_gives_the_units_of_a_local_scan(tmp_path: Path, window: int) -> None:
    model = write_model(tmp_path / "model")
    request, batches = make(model, window)
    outcomes = [perform(request, task) for task in list_all(batches)]
    found = {unit.name: unit for outcome in outcomes if isinstance(outcome, Outcome) for unit in outcome.units}
    for unit in scan(str(model)):
        assert found.pop(unit.name).model_copy(update={"seconds": 0.0}) == unit.model_copy(update={"seconds": 0.0})
    assert found == {}


def test_a_worker_brings_singular_values(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    request, batches = make(model, 5000)
    request = replace(request, config=ScanConfig(spectrum="full"))
    outcomes = [perform(request, task) for task in list_all(batches)]
    made = [item for outcome in outcomes if isinstance(outcome, Outcome) for item in outcome.finished]
    local = scan(str(model), spectrum="full")
    for item in made:
        assert (item.spectrum is not None) is (item.unit.measures is not None)
        if item.spectrum is not None:
            assert item.spectrum.unpack().tolist() == local.singular_values(item.unit.name).tolist()
    assert len(made) == len(local)


def test_a_worker_that_does_not_see_the_files_says_so(tmp_path: Path) -> None:
    request, _ = make(write_model(tmp_path / "model"), 1)
    failure = perform(replace(request, path=tmp_path / "elsewhere"), Task(first=0, last=0, work=1.0))
    assert isinstance(failure, Failure)
    assert failure.exit_code == 2
    assert failure.message.startswith("on host ")
    assert "file system that all hosts share" in failure.message


def test_a_worker_that_sees_other_files_says_so(tmp_path: Path) -> None:
    request, _ = make(write_model(tmp_path / "model"), 1)
    other = write_model(tmp_path / "other", llama_tensors(layers=1))
    failure = perform(replace(request, path=other), Task(first=0, last=0, work=1.0))
    assert isinstance(failure, Failure)
    assert "give every host the same files" in failure.message


def test_more_threads_than_any_node_has_cores_is_refused() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
        {"Alive": True, "Resources": {}},
    ]
    check_cores(nodes, 4)
    with pytest.raises(SelectionError, match="no node of the Ray cluster has more than 4 cores: pass --threads 4"):
        check_cores(nodes, 5)


def test_a_host_with_another_arithmetic_is_named_once(tmp_path: Path) -> None:
    request, batches = make(write_model(tmp_path / "model"), 1 << 20)
    outcome = perform(request, list_all(batches)[0])
    assert isinstance(outcome, Outcome)
    notes = HostNotes(request)
    assert notes.note(outcome) == []
    other = replace(outcome, host="other", arithmetic=Arithmetic(identity="x", num_threads=1))
    assert "host other computes with other code" in notes.note(other)[0]
    assert notes.note(other) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ray": "local", "device": "cuda"}, "does not go with --device cuda"), ({"ray": ""}, "needs the address")],
)
def test_bad_requests(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        scan(str(write_model(tmp_path / "model")), **options)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'oblong\[ray\]'"):
        scan(str(write_model(tmp_path / "model")), ray="local")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_listens_is_named_at_once(tmp_path: Path, address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(OperationalError, match=f"cannot join the Ray cluster at {address}.*ray start --head"):
        scan(str(write_model(tmp_path / "model")), ray=address, num_threads=1)
