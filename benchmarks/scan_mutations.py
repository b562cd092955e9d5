"""Hostile checkpoints: every one gives a Scan or an error that names the file, quickly and in bounded memory.

    python -m benchmarks.scan_mutations [--mutants 10000] [--seed 1] [--workers 1] [--only N] [--json FILE]

Sound checkpoints of every format (tests/mutation_seeds.py) are mutated blindly and with knowledge of their format
(tests/mutations.py, tests/format_mutations.py), and go through the command line of `oblong scan` in processes that are
replaced when they die or hang. A fault is anything but exit 0 with a Scan that can be read back, or exit 2 with a
message that names a file: a traceback, a warning of a library, twice more than 5 seconds, more than 1 GiB asked
for, more than 10 x the files + 64 MiB resident. (Torch reserves what a storage of its old format claims, and gives it
back untouched; that alone is no fault.) Exits with 1 if there is one.

`--only N` makes the N-th mutant again and shows what becomes of it, in this process.
"""

from __future__ import annotations

import argparse
import json
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from tests.mutation_judge import Verdict, judge
from tests.mutation_seeds import make_seeds
from tests.mutations import mutate_checkpoint

LIMIT_SECONDS = 5.0
START_SECONDS = 120.0
TOO_SLOW = f"took more than {LIMIT_SECONDS:.0f} s"
LINES_BETWEEN_REPORTS = 1000


class Worker:
    """A process that judges mutants of one run; started anew after one that killed it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._process: subprocess.Popen[str] | None = None

    def judge(self, number: int) -> Verdict:
        """The verdict, or what became of the process; one that was too slow is tried again, as machines are busy."""
        verdict = self._judge_once(number)
        return self._judge_once(number) if verdict.fault == TOO_SLOW else verdict

    def _judge_once(self, number: int) -> Verdict:
        process = self._process or self._start()
        stdin, stdout = _get_pipes(process)
        stdin.write(f"{number}\n")
        stdin.flush()
        answer = _read_line(stdout, LIMIT_SECONDS)
        if answer:
            return Verdict(**json.loads(answer))
        fault = TOO_SLOW if process.poll() is None else "the process died"
        code = self.stop()
        kind, _, what = mutate_checkpoint(self._seed, number)
        return Verdict(number=number, kind=kind, what=what, code=code, fault=fault, message="")

    def stop(self) -> int | None:
        """End the process; its exit code."""
        if self._process is None:
            return None
        self._process.kill()
        code = self._process.wait()
        self._process = None
        return code

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.mutation_judge", str(self._seed)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if _read_line(_get_pipes(process)[1], START_SECONDS).strip() != "ready":
            process.kill()
            raise RuntimeError("the judge does not start: run python -m tests.mutation_judge 1 to see why")
        self._process = process
        return process


def _get_pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _read_line(stream: IO[str], seconds: float) -> str:
    """One line, or nothing when it does not come in time or never will. Only one line is ever under way."""
    ready, _, _ = select.select([stream], [], [], seconds)
    return stream.readline() if ready else ""


def judge_all(seed: int, numbers: Sequence[int]) -> Iterator[Verdict]:
    """The verdicts of one worker."""
    worker = Worker(seed)
    try:
        for number in numbers:
            yield worker.judge(number)
    finally:
        worker.stop()


def watch(seed: int, numbers: Sequence[int]) -> list[Verdict]:
    """The verdicts of one worker; faults are printed as they come."""
    verdicts = []
    for verdict in judge_all(seed, numbers):
        verdicts.append(verdict)
        if verdict.fault is not None:
            print(f"mutant {verdict.number} of {verdict.kind}: {verdict.what}: {verdict.fault}", flush=True)
            print("".join(f"    {line}\n" for line in verdict.message.splitlines()[-4:]), end="", flush=True)
        if len(verdicts) % LINES_BETWEEN_REPORTS == 0:
            print(f"{len(verdicts)} of {len(numbers)} judged", file=sys.stderr, flush=True)
    return verdicts


def show_one(seed: int, number: int) -> int:
    """Make one mutant again in this process and print what becomes of it."""
    with tempfile.TemporaryDirectory() as place:
        verdict = judge(seed, number, Path(place))
    print(f"mutant {number} of {verdict.kind}: {verdict.what}\nexit code {verdict.code}; fault: {verdict.fault}")
    print(verdict.message)
    return int(verdict.fault is not None)


def print_table(verdicts: Sequence[Verdict]) -> None:
    print(f"{'format':16} {'mutants':>8} {'scanned':>8} {'refused':>8} {'faults':>7} {'peak MB':>8}")
    for kind in make_seeds():
        group = [verdict for verdict in verdicts if verdict.kind == kind]
        codes = Counter(verdict.code for verdict in group if verdict.fault is None)
        faults = sum(verdict.fault is not None for verdict in group)
        peak = max((verdict.peak_bytes for verdict in group), default=0)
        print(f"{kind:16} {len(group):>8} {codes[0]:>8} {codes[2]:>8} {faults:>7} {peak / 1e6:>8.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.only is not None:
        return show_one(arguments.seed, arguments.only)
    start = time.monotonic()
    shares = [range(first, arguments.mutants, arguments.workers) for first in range(arguments.workers)]
    with ThreadPoolExecutor(arguments.workers) as pool:
        verdicts = [v for found in pool.map(lambda share: watch(arguments.seed, share), shares) for v in found]
    seconds = time.monotonic() - start
    faults = [verdict for verdict in verdicts if verdict.fault is not None]
    print_table(verdicts)
    print(f"{len(verdicts)} mutants of seed {arguments.seed} in {seconds:.0f} s: {len(faults)} faults")
    if arguments.json:
        counts = Counter(
            f"{v.kind} {'fault' if v.fault else 'scanned' if v.code == 0 else 'refused'}" for v in verdicts
        )
        result = {
            **{"seed": arguments.seed, "mutants": len(verdicts), "seconds": round(seconds, 1)},
            **{"outcomes": dict(sorted(counts.items())), "peak_bytes": max(v.peak_bytes for v in verdicts)},
            # Not the message: it is a traceback with the paths of this machine; `--only N` shows it again.
            "faults": [{"number": v.number, "kind": v.kind, "what": v.what, "fault": v.fault} for v in faults],
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
