"""Kill -9 at random moments: what a scan finishes after it is the Scan of one that nobody disturbed.

    python -m benchmarks.scan_killed [--kills 20] [--seed 1] [--layers 24] [--threads 1] [--json FILE]

A sharded Llama-shaped checkpoint is generated and scanned once undisturbed. Then the same command is started again and
again, each time in a process of its own that gets SIGKILL after a random delay, uniform over the time that the
undisturbed scan took. A scan that ends before its signal is compared and begun anew, until all kills are done; the last
one may finish. Every finished file must equal the undisturbed one line by line, apart from provenance and seconds, and
leave nothing beside it. The cache of findings is off, so that what is kept is kept by the scan itself. Exits with 1
if a file differs, or if no kill found a scan with some but not all units.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from oblong.scanning.partial import get_partial_path
from oblong.scanning.store import OFF, PLACE_VARIABLE
from tests.checkpoint_builders import llama_tensors, write_sharded

WIDTH, HIDDEN = 320, 832
NUM_SHARDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One SIGKILL: when it came (seconds after the start), and how many units were on the disk then."""

    delay: float
    num_units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All kills, and the finished files that were compared; `problems` says what differed."""

    undisturbed_seconds: float
    num_units: int
    kills: tuple[Kill, ...]
    num_finished: int
    problems: tuple[str, ...]

    @property
    def num_in_the_middle(self) -> int:
        """Kills that found some units but not all."""
        return sum(0 < kill.num_units < self.num_units for kill in self.kills)


def make_model(directory: Path, layers: int) -> Path:
    tensors = list(llama_tensors(layers=layers, width=WIDTH, hidden=HIDDEN, vocab=512).items())
    names = [f"model-{index}.safetensors" for index in range(NUM_SHARDS)]
    size = -(-len(tensors) // NUM_SHARDS)
    shards = {name: dict(tensors[index * size : (index + 1) * size]) for index, name in enumerate(names)}
    return write_sharded(directory, shards)


def start(model: Path, output: Path, threads: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "oblong", "scan", str(model), "-o", str(output), "--threads", str(threads)]
    environment = {**os.environ, PLACE_VARIABLE: OFF}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a scan to end by itself."""
    _, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the scan ended with {process.returncode}: {errors.decode()}")


def read_comparable_lines(path: Path) -> list[dict[str, Any]]:
    """Every line, without what may differ between two runs."""
    header, *units = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    header.pop("provenance")
    for unit in units:
        unit.pop("seconds")
    return [header, *units]


def count_units(partial: Path) -> int:
    """Whole lines of a partial file but its header."""
    return max(partial.read_bytes().count(b"\n") - 1, 0) if partial.exists() else 0


def find_problems(output: Path, expected: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with a finished scan's folder; the file is removed for the next one."""
    found = read_comparable_lines(output)
    problems = [f"line {i + 1} differs" for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b]
    if len(found) != len(expected):
        problems.append(f"{len(found)} lines instead of {len(expected)}")
    output.unlink()
    return [*problems, *(f"{path.name} was left" for path in output.parent.iterdir())]


def run(place: Path, *, num_kills: int, seed: int, layers: int, threads: int) -> Outcome:
    """Kill scans in `place` and compare what they finish."""
    model = make_model(place / "model", layers)
    begin = time.monotonic()
    finish(start(model, place / "undisturbed.jsonl", threads))
    seconds = time.monotonic() - begin
    expected = read_comparable_lines(place / "undisturbed.jsonl")
    random = Random(seed)
    output = place / "disturbed" / "s.jsonl"
    output.parent.mkdir()
    kills: list[Kill] = []
    problems: list[str] = []
    num_finished = 0
    while len(kills) < num_kills:
        process = start(model, output, threads)
        delay = random.uniform(0, seconds)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        if process.returncode == -signal.SIGKILL:
            is_whole = output.exists()  # it was killed after its last act
            kills.append(Kill(delay=delay, num_units=count_units(output if is_whole else get_partial_path(output))))
        elif process.returncode != 0:
            raise RuntimeError(f"the scan ended with {process.returncode}: {errors.decode()}")
        if output.exists():
            num_finished += 1
            problems += find_problems(output, expected)
    finish(start(model, output, threads))
    problems += find_problems(output, expected)
    return Outcome(
        undisturbed_seconds=seconds,
        num_units=len(expected) - 1,
        kills=tuple(kills),
        num_finished=num_finished + 1,
        problems=tuple(problems),
    )


def print_table(outcome: Outcome) -> None:
    print(f"undisturbed: {outcome.undisturbed_seconds:.1f} s for {outcome.num_units} units")
    print(f"{'kill':>4} {'after s':>8} {'units kept':>10}")
    for index, kill in enumerate(outcome.kills, start=1):
        print(f"{index:>4} {kill.delay:>8.2f} {kill.num_units:>10}")
    verdict = "equal the undisturbed one" if not outcome.problems else "; ".join(outcome.problems[:5])
    print(f"{len(outcome.kills)} kills, {outcome.num_in_the_middle} of them in the middle; ", end="")
    print(f"{outcome.num_finished} finished scans: {verdict}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        outcome = run(
            Path(place),
            num_kills=arguments.kills,
            seed=arguments.seed,
            layers=arguments.layers,
            threads=arguments.threads,
        )
    print_table(outcome)
    if arguments.json:
        result = {**asdict(outcome), "seed": arguments.seed, "threads": arguments.threads}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(bool(outcome.problems) or outcome.num_in_the_middle == 0)


if __name__ == "__main__":
    sys.exit(main())
