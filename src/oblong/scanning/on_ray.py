"""A scan spread over the nodes of a Ray cluster; see docs/how-to/ray.md and design/041.

Ray runs the tasks and repeats those of a worker or node that died. Everything else is as on one machine: the same
batches, the same arithmetic, the same lines in the same `.partial`, so the Scan has the same digest.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from oblong.checkpoints import Checkpoint
from oblong.errors import MissingExtraError, OperationalError, SelectionError, UserError, WorkerError
from oblong.records import ScanConfig
from oblong.scanning.cache_key import describe_arithmetic
from oblong.scanning.devices import count_cores
from oblong.scanning.spreading import Failure, Outcome, Request, Task, perform

LOCAL: Final = "local"
# A node that is gone takes its tasks along once; a task that ends its worker again and again is at fault itself.
MAX_RETRIES: Final = 5
# Finished units are all that travels, with --spectrum full some kilobytes of singular values each.
OBJECT_STORE_BYTES: Final = 128 << 20
KNOCK_TIMEOUT_SECONDS: Final = 10.0


def check_request(device: str, address: str) -> None:
    """Refuse what cannot be spread.

    Raises:
        SelectionError: another device than the CPU, or no address.
        MissingExtraError: Ray is not installed.
    """
    if device != "cpu":
        raise SelectionError(f"--ray spreads over CPUs; it does not go with --device {device}")
    if not address:
        raise SelectionError("--ray needs the address of a cluster such as 10.0.0.1:6379, `auto`, or `local`")
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("oblong scan --ray", "ray") from error


def make_request(
    checkpoint: Checkpoint, config: ScanConfig, *, window_bytes: int, num_threads: int, use_cache: bool
) -> Request:
    """What the workers must know."""
    return Request(
        path=checkpoint.path.resolve(),
        info=checkpoint.info,
        config=config,
        window_bytes=window_bytes,
        num_threads=num_threads,
        use_cache=use_cache,
        identity=uuid.uuid4().hex,
    )


def iter_outcomes(address: str, request: Request, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
    """Run the tasks on a cluster; outcomes come as they are finished.

    Raises:
        SelectionError: no node has as many cores as a task needs.
        OperationalError: the cluster cannot be reached.
        UserError, OperationalError: a worker's own error, with the name of its host.
        WorkerError: a task died more often than can be the fault of its nodes.
    """
    if not tasks:
        return
    import ray

    with connect(address):
        check_cores(ray.nodes(), request.num_threads)
        remote = ray.remote(perform).options(
            num_cpus=request.num_threads, max_retries=MAX_RETRIES, scheduling_strategy="SPREAD"
        )
        shared = ray.put(request)
        pending = {remote.remote(shared, task): task for task in tasks}
        try:
            while pending:
                (done,), _ = ray.wait(list(pending))
                task = pending.pop(done)
                yield receive(done, task)
        finally:
            for reference in pending:
                ray.cancel(reference)


def receive(reference: Any, task: Task) -> Outcome:
    """The outcome behind a reference; a failure is raised here."""
    import ray

    try:
        found: Outcome | Failure = ray.get(reference)
    except ray.exceptions.RayError as error:
        cause = str(error).strip().splitlines()[-1]
        raise WorkerError(
            f"the Ray task of batches {task.first} to {task.last} died, also after {MAX_RETRIES} repetitions: {cause}. "
            "What was finished is kept: run the same command to go on"
        ) from error
    if isinstance(found, Failure):
        raise (UserError if found.exit_code == UserError.exit_code else OperationalError)(found.message)
    return found


@contextmanager
def connect(address: str) -> Iterator[None]:
    """Join a cluster, or start one on this machine for `local`; a connection that is there already is used and left."""
    import ray

    if ray.is_initialized():
        yield
        return
    # Nobody asked oblong to report their use of Ray to anyone.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    local = {"num_cpus": count_cores(), "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        knock(address)
        ray.init(address=address, **quiet, **(local if address == LOCAL else {}))
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        advice = "is the address that of `ray start --head`, and can this host reach it? See docs/how-to/ray.md"
        raise OperationalError(f"cannot join the Ray cluster at {address}: {error}; {advice}") from error
    try:
        yield
    finally:
        ray.shutdown()


def knock(address: str) -> None:
    """Make sure that somebody listens at HOST:PORT: Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=KNOCK_TIMEOUT_SECONDS).close()


def check_cores(nodes: Sequence[dict[str, Any]], num_threads: int) -> None:
    """Make sure that a task can run anywhere at all: Ray would wait for ever for a node that is large enough.

    Raises:
        SelectionError: every node has fewer cores.
    """
    most = max((int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]), default=0)
    if num_threads > most:
        raise SelectionError(
            f"a task takes {num_threads} threads, but no node of the Ray cluster has more than {most} cores: pass "
            f"--threads {max(most, 1)} or less (the Scan is that of `oblong scan --threads` with the same number)"
        )


class HostNotes:
    """Says once for each host if its arithmetic is another than this machine's."""

    def __init__(self, request: Request) -> None:
        self._here = describe_arithmetic(request.config.device, request.num_threads)
        self._seen: set[str] = set()

    def note(self, outcome: Outcome) -> list[str]:
        """What there is to say about an outcome's host."""
        if outcome.host in self._seen or outcome.arithmetic == self._here:
            return []
        self._seen.add(outcome.host)
        return [
            f"host {outcome.host} computes with other code, libraries or processor kernels than "
            f"{socket.gethostname()}: last digits may differ from those of a scan on one machine"
        ]
