"""Speech trainings in several processes, as a launcher starts them: gloo, on this machine's CPU.

    python -m tests.several_processes JOBS.json      one process of several; RANK and so on are in the environment

JOBS.json is a list; each job is a recipe, and may have `others` (fields that only the other processes' recipe has) and
`kill` ([activity, step], where the first process kills itself).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 600
Job = Mapping[str, Any]


def run_together(folder: Path, jobs: Sequence[Job], *, count: int = 2) -> list[list[str]]:
    """Run jobs one after the other in `count` processes.

    Returns:
        For each process what came of each job: `ok`, or the error's class and message. A killed process says no more.
    """
    script = folder / "jobs.json"
    script.write_text(json.dumps(list(jobs)), encoding="utf-8")
    command = [sys.executable, "-m", "tests.several_processes", str(script)]
    port = find_port()
    started = [
        subprocess.Popen(command, env=make_environment(rank, count, port), stdout=subprocess.PIPE, text=True)
        for rank in range(count)
    ]
    try:
        first = started[0].communicate(timeout=TIMEOUT_SECONDS)[0]
        if started[0].returncode < 0:
            # A launcher ends the others when one dies.
            for process in started[1:]:
                process.kill()
        others = [process.communicate(timeout=TIMEOUT_SECONDS)[0] for process in started[1:]]
    finally:
        for process in started:
            process.kill()
    return [[json.loads(line) for line in printed.splitlines()] for printed in (first, *others)]


def make_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def find_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def main(script: Path) -> None:
    """Run the jobs in this process."""
    from torch import distributed

    from oblong.errors import OblongError
    from oblong.speech.training import SpeechProgress, SpeechTrainRecipe, train_speech

    distributed.init_process_group("gloo")
    for job in json.loads(script.read_text(encoding="utf-8")):
        fields = {name: value for name, value in job.items() if name not in ("others", "kill")}
        if distributed.get_rank() > 0:
            fields |= job.get("others", {})

        def report(progress: SpeechProgress, kill: Sequence[Any] = job.get("kill", ())) -> None:
            if [progress.activity, progress.done] == list(kill):
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            train_speech(SpeechTrainRecipe.model_validate(fields), on_progress=report)
            result = "ok"
        except OblongError as error:
            result = f"{type(error).__name__}: {error}"
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
