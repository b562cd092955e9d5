"""Scan on a Ray cluster of two nodes on this machine: lose one, interrupt, go on; the Scan is the local one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oblong.cli.main import run
from oblong.errors import SelectionError, UserError, WorkerError
from oblong.records import Scan
from oblong.scanning import ScanProgress, on_ray, scan, scanner
from oblong.scanning.partial import get_partial_path
from oblong.scanning.spreading import Failure, Outcome, Request, Task, perform
from tests.checkpoint_builders import llama_tensors, write_model

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.filterwarnings("ignore:::ray")

STORE_BYTES = 80 << 20
# So that a node that is gone is noticed in a second or two, not in half a minute.
WATCHFUL = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node with one core. This process is its driver."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        started = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "include_dashboard": False,
                "object_store_memory": STORE_BYTES,
                "_system_config": WATCHFUL,
            },
        )
        ray.init(address=started.address, log_to_driver=False, configure_logging=False)
        yield started
        ray.shutdown()
        started.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), llama_tensors(layers=2))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanner, "WINDOW_BYTES", 5000)


def replace_perform(monkeypatch: pytest.MonkeyPatch, before: Callable[[Task], None]) -> None:
    """Let every worker do something before each task. A closure, since workers cannot import this file."""

    def perform_after(request: Request, task: Task) -> Outcome | Failure:
        before(task)
        return perform(request, task)

    monkeypatch.setattr(on_ray, "perform", perform_after)


def test_a_killed_node_costs_its_tasks_a_second_try(
    cluster: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    cluster.wait_for_nodes()
    victim = node.node_id

    def wait_for_the_victim(task: Task) -> None:
        """On the node that will be killed: begin, and never end. On the other: rest until that one has begun."""
        is_victim = ray.get_runtime_context().get_node_id() == victim
        (tmp_path / f"{'victim' if is_victim else 'survivor'} {task.first}").touch()
        deadline = time.monotonic() + 60
        while is_victim or not list(tmp_path.glob("victim *")):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    replace_perform(monkeypatch, wait_for_the_victim)

    def kill(state: ScanProgress) -> None:
        if state.done == 1:
            cluster.remove_node(node, allow_graceful=False)

    result = scan(str(model), output=tmp_path / "s.jsonl", num_threads=1, ray=cluster.address, on_progress=kill)
    (begun,) = (path.name.split()[1] for path in tmp_path.glob("victim *"))
    assert (tmp_path / f"survivor {begun}").exists()
    assert result.digest() == scan(str(model), num_threads=1).digest()
    assert Scan.read(tmp_path / "s.jsonl") == result


class Stopped(Exception):
    """Stands for whatever ends a scan early."""


def stop_after(number: int) -> Callable[[ScanProgress], None]:
    def callback(state: ScanProgress) -> None:
        if state.done == number:
            raise Stopped

    return callback


@pytest.mark.parametrize(("first", "then"), [("auto", "auto"), ("auto", None), (None, "auto")])
def test_it_goes_on_where_it_stopped_here_or_there(
    cluster: Any, model: Path, tmp_path: Path, first: str | None, then: str | None
) -> None:
    output = tmp_path / "s.jsonl"
    with pytest.raises(Stopped):
        scan(str(model), output=output, num_threads=1, ray=first, on_progress=stop_after(7))
    assert len(get_partial_path(output).read_text().splitlines()) == 8
    messages: list[str] = []
    result = scan(
        str(model),
        output=output,
        num_threads=1,
        ray=then,
        on_progress=lambda state: messages.append(state.message) if state.message else None,
    )
    assert messages == [f"resuming: 7 of {len(result)} units were finished before"]
    assert Scan.read(output) == result
    assert result.digest() == scan(str(model), num_threads=1).digest()
    assert not get_partial_path(output).exists()


def test_singular_values_come_back_from_the_nodes_and_go_on_here(cluster: Any, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "s.jsonl"
    with pytest.raises(Stopped):
        scan(str(model), output=output, num_threads=1, spectrum="full", ray="auto", on_progress=stop_after(9))
    result = scan(str(model), output=output, num_threads=1, spectrum="full")
    local = scan(str(model), num_threads=1, spectrum="full")
    assert Scan.read(output).digest() == result.digest() == local.digest()
    for unit in local.measured:
        assert result.singular_values(unit.name).tolist() == local.singular_values(unit.name).tolist()


def test_a_task_that_always_ends_its_worker_ends_the_scan_with_what_was_finished(
    cluster: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(task: Task) -> None:
        if task.first == 2:
            os._exit(1)

    replace_perform(monkeypatch, die)
    monkeypatch.setattr(on_ray, "MAX_RETRIES", 0)
    with pytest.raises(WorkerError, match=r"batches 2 to 2 died.*run the same command to go on"):
        scan(str(model), output=tmp_path / "s.jsonl", num_threads=1, ray="auto")
    assert get_partial_path(tmp_path / "s.jsonl").exists()


def test_an_error_of_a_worker_names_its_host(
    cluster: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = write_model(tmp_path / "hidden")

    def hide(task: Task) -> None:
        if hidden.exists():
            hidden.rename(hidden.with_name("elsewhere"))

    replace_perform(monkeypatch, hide)
    with pytest.raises(UserError, match=r"on host .*hidden.*file system that all hosts share"):
        scan(str(hidden), num_threads=1, ray="auto")


def test_the_command_prints_nothing_but_its_result(
    cluster: Any, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "s.jsonl"
    assert run(["scan", str(model), "-o", str(output), "--ray", "auto", "--threads", "1", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["digest"] == Scan.read(output).digest()


def test_more_threads_than_cores_are_refused_instead_of_waiting_for_ever(cluster: Any, model: Path) -> None:
    with pytest.raises(SelectionError, match="--threads 1 or less"):
        scan(str(model), num_threads=2, ray="auto")
