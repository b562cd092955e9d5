"""Run jobs in processes of their own, a few at a time; what is done already is not done again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from oblong.comparing.jobs import Job
from oblong.errors import OutputExistsError, WorkerError

POLL_SECONDS: Final = 0.2
LOG_LINES_SHOWN: Final = 6
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

OnPoll = Callable[[Sequence[Job]], None]
"""Called a few times a second with all jobs; each says itself how far it is."""


@dataclass(slots=True)
class Worker:
    """A running job."""

    job: Job
    process: subprocess.Popen[bytes]


def run_jobs(jobs: Sequence[Job], *, num_workers: int, on_poll: OnPoll | None = None) -> None:
    """Carry out every job that is not done yet, in order, `num_workers` at a time.

    Interrupted (Ctrl-C, kill), the same call goes on: finished jobs are kept, a tuning run resumes from its last
    checkpoint. When a job dies the others finish first, so that no work is lost.

    Raises:
        WorkerError: jobs that died, with the last lines of their logs.
        OutputExistsError: a job's folder holds another configuration's results.
    """
    check_folders(jobs)
    waiting = [job for job in jobs if not job.is_done()]
    running: list[Worker] = []
    failed: list[Job] = []
    with ExitStack() as stack:
        stack.callback(lambda: stop(running))
        while waiting or running:
            while waiting and len(running) < num_workers:
                running.append(start(waiting.pop(0)))
            for worker in [worker for worker in running if worker.process.poll() is not None]:
                running.remove(worker)
                if worker.process.returncode != 0:
                    failed.append(worker.job)
            if on_poll is not None:
                on_poll(jobs)
            time.sleep(POLL_SECONDS)
    if failed:
        raise WorkerError("\n".join(describe_failure(job) for job in failed))


def check_folders(jobs: Sequence[Job]) -> None:
    """Stop before anything is run where a job would write among another one's results.

    Raises:
        OutputExistsError: a job's folder holds another configuration's results.
    """
    for job in jobs:
        if job.path.exists() and any(job.path.iterdir()) and not job.is_prepared():
            differing = ", ".join(job.find_differences()) or "what made it is not known"
            raise OutputExistsError(
                job.path,
                advice=f"it was made with another configuration ({differing}). Choose another output with -o, or start "
                "over with --fresh",
            )


def start(job: Job) -> Worker:
    """Start a job's process, its threads limited as the job says."""
    job.prepare()
    environment = dict(os.environ)
    if job.threads is not None:
        # Passive waiting: threads that spin between parallel regions take the cores from the other workers.
        environment |= dict.fromkeys(THREAD_VARIABLES, str(job.threads)) | {"OMP_WAIT_POLICY": "passive"}
    with (job.path / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "oblong.comparing.worker", str(job.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    return Worker(job=job, process=process)


def stop(workers: Sequence[Worker]) -> None:
    """End what still runs; each has its own checkpoints."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        try:
            worker.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


def describe_failure(job: Job) -> str:
    """Which job died, and the end of its log."""
    log = job.path / "worker.log"
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").rstrip().split("\n")[-LOG_LINES_SHOWN:]
    except OSError as error:
        lines = [f"(it cannot be read: {error.strerror})"]
    return f"{job.label} failed; the end of {log}:\n" + "\n".join(f"    {line}" for line in lines)


def default_num_workers() -> int:
    """One per core this process may use; one on a machine with a GPU, which runs share badly."""
    import torch

    if torch.cuda.is_available():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads(num_workers: int) -> int:
    """Threads per worker, so that all together use each core once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // num_workers)
