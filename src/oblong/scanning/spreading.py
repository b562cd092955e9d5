"""A scan cut into tasks for other machines, and what such a machine does with one. Knows nothing of who sends them.

A worker reads the shards where they are, under the same path, and derives batches from the headers as the sender
did: only numbers of batches travel there, and only finished units travel back.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from oblong.checkpoints import Checkpoint, open_checkpoint
from oblong.errors import CorruptCheckpointError, ModelNotFoundError, OblongError
from oblong.records import CheckpointInfo, ScanConfig, Unit
from oblong.scanning.cache import SpectrumCache, open_cache
from oblong.scanning.cache_key import Arithmetic, describe_arithmetic
from oblong.scanning.devices import choose_backend
from oblong.scanning.finding import FinishedUnit
from oblong.scanning.measuring import collect_findings, measure_batch
from oblong.scanning.streaming import TensorLoader
from oblong.scanning.worklist import Batch, list_batches, list_jobs, list_loads


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a worker must know of a scan. `identity` tells two scans of one sender apart."""

    path: Path
    info: CheckpointInfo
    config: ScanConfig
    window_bytes: int
    num_threads: int
    use_cache: bool
    identity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Consecutive batches, `first` to `last` inclusive, and an estimate of their floating-point operations."""

    first: int
    last: int
    work: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a worker found: units with their singular values, things to say, and what computed them."""

    finished: tuple[FinishedUnit, ...]
    messages: tuple[str, ...]
    num_known: int
    host: str
    arithmetic: Arithmetic

    @property
    def units(self) -> tuple[Unit, ...]:
        """The finished units."""
        return tuple(made.unit for made in self.finished)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A deliberate error on a worker: exceptions with fields do not survive the journey, their messages do."""

    message: str
    exit_code: int


def list_tasks(batches: Sequence[Batch], is_finished: Callable[[Batch], bool]) -> tuple[Task, ...]:
    """The tasks that are left, the largest first, so that no long one starts last.

    A task is one batch; but all batches of one stack of experts, whose digest takes reading all of it, are together.
    """
    spans: list[list[int]] = []
    for index, batch in enumerate(batches):
        if spans and _share_a_stack(batches[index - 1], batch):
            spans[-1].append(index)
        else:
            spans.append([index])
    tasks = (
        Task(first=span[0], last=span[-1], work=sum(_estimate_work(batches[index]) for index in span))
        for span in spans
        if not all(is_finished(batches[index]) for index in span)
    )
    return tuple(sorted(tasks, key=lambda task: (-task.work, task.first)))


def _share_a_stack(one: Batch, other: Batch) -> bool:
    last, first = one[-1].tensor, other[0].tensor
    return last.slice_index is not None and first.slice_index is not None and last.name == first.name


def _estimate_work(batch: Batch) -> float:
    return sum(job.work for load in batch for job in load.jobs)


def perform(request: Request, task: Task) -> Outcome | Failure:
    """Measure the batches of one task on this machine."""
    try:
        return _perform(request, task)
    except OblongError as error:
        return Failure(message=f"on host {socket.gethostname()}: {error}", exit_code=error.exit_code)


def _perform(request: Request, task: Task) -> Outcome:
    desk = _open_desk(request)
    compute = choose_backend(
        request.config.device,
        full=request.config.spectrum == "full",
        num_threads=request.num_threads,
        precision=request.config.precision,
    )
    loader = TensorLoader(desk.checkpoint, desk.cache, by_rows=request.config.device == "cpu")
    finished: list[FinishedUnit] = []
    num_known = 0
    for batch in desk.batches[task.first : task.last + 1]:
        loaded = tuple(item for load in batch for item in loader.load(load))
        found = measure_batch(loaded, request.config, compute)
        num_known += sum(item.known is not None for item in loaded)
        if desk.cache is not None:
            desk.cache.remember(collect_findings(loaded, found))
        finished.extend(found)
        del loaded
    return Outcome(
        finished=tuple(finished),
        messages=tuple(desk.cache.take_warnings()) if desk.cache else (),
        num_known=num_known,
        host=socket.gethostname(),
        arithmetic=describe_arithmetic(request.config.device, request.num_threads),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Desk:
    """What a worker keeps between the tasks of one scan."""

    checkpoint: Checkpoint
    batches: tuple[Batch, ...]
    cache: SpectrumCache | None


@lru_cache(maxsize=1)
def _open_desk(request: Request) -> _Desk:
    checkpoint = _open_checkpoint(request)
    jobs = list_jobs(checkpoint, request.config)
    return _Desk(
        checkpoint=checkpoint,
        batches=list_batches(list_loads(jobs), request.window_bytes),
        cache=open_cache(checkpoint, request.config, request.num_threads) if request.use_cache else None,
    )


def _open_checkpoint(request: Request) -> Checkpoint:
    if not request.path.exists():
        advice = "it is not there. Every worker reads the files itself: put them on a file system that all hosts share"
        raise ModelNotFoundError(str(request.path), f"{advice}, under the same path")
    checkpoint = open_checkpoint(request.path)
    if checkpoint.info != request.info:
        reason = "its headers are not those that the sender of the scan sees"
        raise CorruptCheckpointError(request.path, reason, advice="give every host the same files")
    return checkpoint
