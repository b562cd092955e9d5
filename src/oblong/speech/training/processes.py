"""One training in several processes, one GPU each: what they divide, add up, and agree on.

Every process computes the same decisions from the same numbers. What they divide are the utterances of a batch and of
an evaluation; what they add up are losses and gradients; files are written by the first alone. With one process all of
it is nothing, to the bit.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
from torch import distributed, nn

from oblong.errors import OblongError, OtherProcessError, UserError
from oblong.speech.training.recipe import SpeechTrainRecipe

T = TypeVar("T")

# What the first does alone (writing, waiting for a slow disk) must not look like a death; the launcher notices deaths.
TIMEOUT: Final = timedelta(hours=6)
NEEDED: Final = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
FOREIGN: Final = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: from 0; the first one writes.
        count: of them.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def deal(self, items: Sequence[T]) -> Iterator[tuple[int, T]]:
        """This process's share, each item with its place.

        All processes get the same number, so that they call a sharded model equally often: where items are short, some
        are dealt twice.
        """
        for turn in range(math.ceil(len(items) / self.count)):
            place = (turn * self.count + self.rank) % len(items)
            yield place, items[place]

    def collect(self, mine: Mapping[int, T]) -> list[T]:
        """What all made of their shares, in the order of the places."""
        whole = {place: made for share in self._gather(mine) for place, made in share.items()}
        return [whole[place] for place in sorted(whole)]

    def add(self, *values: float) -> list[float]:
        """Each value's sum over the processes."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return [float(total) for total in sums]

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes; one that a process does not have counts as zero."""
        if self.count == 1:
            return
        waiting: list[Any] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            waiting.append(distributed.all_reduce(parameter.grad, async_op=True))
        for work in waiting:
            work.wait()

    @torch.no_grad()
    def copy_first(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make parameters those of the first process, bit for bit."""
        if self.count == 1:
            return
        for parameter in parameters:
            distributed.broadcast(parameter.data, src=0)

    def tell(self, value: T) -> T:
        """The first process's value."""
        if self.count == 1:
            return value
        box: list[Any] = [value if self.is_first else None]
        distributed.broadcast_object_list(box, src=0)
        told: T = box[0]
        return told

    def agree(self, work: Callable[[], T]) -> T:
        """Work that every process does; if it fails in one, it fails in all, and the first says why.

        Raises:
            OblongError: in the first process, its own, or a UserError with that of another.
            OtherProcessError: in the others.
        """
        if self.count == 1:
            return work()
        done: T | None = None
        error: OblongError | None = None
        try:
            done = work()
        except OblongError as caught:
            error = caught
        reports = self._gather(None if error is None else (str(error), socket.gethostname()))
        failures = [(rank, report) for rank, report in enumerate(reports) if report is not None]
        if failures:
            rank, (message, host) = failures[0]
            if not self.is_first:
                raise OtherProcessError(message) from error
            raise error or UserError(f"process {rank} of {self.count}, on {host}: {message}")
        return done  # type: ignore[return-value]  # set where nothing failed

    def first(self, work: Callable[[], T]) -> T:
        """Work that the first process does for all; what it returns is told to them. Fails as `agree` does."""
        return self.tell(self.agree(lambda: work() if self.is_first else None))  # type: ignore[return-value]

    def _gather(self, value: T) -> list[T]:
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values


ALONE: Final = Processes()


def count_processes() -> int:
    """How many processes a launcher started, by the environment that torchrun and `accelerate launch` set."""
    return int(os.environ.get("WORLD_SIZE", "1") or 1)


def is_first_process() -> bool:
    """Whether this process speaks to the user."""
    return count_processes() == 1 or os.environ.get("RANK", "0") == "0"


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Meet the processes that the launcher started; alone without one.

    Raises:
        UserError: the environment is not a launcher's, or asks for what is not done here, or there are fewer GPUs than
            processes on this machine.
    """
    if (count := count_processes()) == 1:
        yield ALONE
        return
    refuse_launch(count)
    ours = not distributed.is_initialized()
    if ours:
        with_gpu = torch.cuda.is_available()
        if with_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("cpu:gloo,cuda:nccl" if with_gpu else "gloo", timeout=TIMEOUT)
    yield Processes(rank=distributed.get_rank(), count=distributed.get_world_size())
    # Not after an error: the others may be waiting for this one, and its end is what they will notice.
    if ours:
        distributed.destroy_process_group()


def refuse_launch(count: int) -> None:
    """Stop where the launcher's settings cannot be what the user means.

    Raises:
        UserError: see `join_processes`.
    """
    if missing := [name for name in NEEDED if name not in os.environ]:
        raise UserError(
            f"WORLD_SIZE is {count}, but {', '.join(missing)} is not set: start with torchrun or `accelerate launch`, "
            "or unset WORLD_SIZE to train in one process"
        )
    for variable, name in FOREIGN.items():
        if os.environ.get(variable, "false").lower() in ("1", "true", "yes", "on"):
            raise UserError(
                f"`accelerate launch` is set to {name}, which would wrap the whole model: launch with --multi_gpu (or "
                "torchrun), and write shard_frozen: true into the recipe to divide the frozen layers among the GPUs"
            )
    num_gpus = torch.cuda.device_count()
    if torch.cuda.is_available() and int(os.environ["LOCAL_RANK"]) >= num_gpus:
        raise UserError(
            f"{os.environ.get('LOCAL_WORLD_SIZE', count)} processes were started on this machine and PyTorch sees "
            f"{num_gpus} GPUs: one process per GPU (torchrun --nproc-per-node {num_gpus})"
        )


def refuse_idle_processes(recipe: SpeechTrainRecipe, count: int) -> None:
    """Stop where some processes would never have an utterance.

    Raises:
        UserError: a batch of some stage has fewer than there are processes.
    """
    batches = {"batch": recipe.batch}
    if recipe.spell is not None and recipe.spell.batch is not None:
        batches["spell.batch"] = recipe.spell.batch
    for name, batch in batches.items():
        most = batch.max_utterances
        if count > most:
            raise UserError(
                f"{count} processes share each batch, and {name}.max_utterances is {most}: raise it to {count} or "
                f"more, or start at most {most} processes"
            )
