"""What the cache of findings costs a first scan and saves a repeated one, against just reading and hashing the model.

    python benchmarks/scan_cache.py [MODEL] [--rounds 3] [--threads N] [--json FILE]

All run in this process, one after the other, in every round, with the files in the page cache; a first round warms
up. Every scan is written to a file, and their digests must be equal.

- hash          open the checkpoint, read every tensor, SHA-256: the floor, since a Scan names the bytes it is about.
- no cache      `oblong scan --no-cache`
- empty cache   the same with a cache in which nothing is: what looking up and adding costs.
- warm cache    the same again: nothing is decoded or computed but vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from oblong.checkpoints import locate_model, open_checkpoint
from oblong.scanning import scan
from oblong.scanning.store import PLACE_VARIABLE, SpectrumStore

HASH, NO_CACHE, EMPTY, WARM = "hash", "no cache", "empty cache", "warm cache"


def hash_model(model: str) -> None:
    """Read and hash every tensor."""
    checkpoint = open_checkpoint(locate_model(model))
    for tensor in checkpoint.tensors:
        checkpoint.digest(tensor)


def scan_to_file(model: str, *, cache: bool, threads: int) -> str:
    """Scan; the Scan's digest."""
    with tempfile.TemporaryDirectory() as directory:
        return scan(model, output=Path(directory) / "s.jsonl", cache=cache, num_threads=threads).digest()


def run_round(model: str, threads: int) -> tuple[dict[str, float], set[str], int]:
    """Seconds of each, the digests, and the bytes of the cache."""
    seconds: dict[str, float] = {}
    digests: set[str] = set()

    def clock(name: str, run: Callable[[], str | None]) -> None:
        start = time.perf_counter()
        digest = run()
        seconds[name] = time.perf_counter() - start
        digests.update([digest] if digest else [])

    with tempfile.TemporaryDirectory() as place:
        os.environ[PLACE_VARIABLE] = place
        clock(HASH, lambda: hash_model(model))
        clock(NO_CACHE, lambda: scan_to_file(model, cache=False, threads=threads))
        clock(EMPTY, lambda: scan_to_file(model, cache=True, threads=threads))
        clock(WARM, lambda: scan_to_file(model, cache=True, threads=threads))
        return seconds, digests, SpectrumStore(Path(place)).measure_usage().num_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds = [run_round(arguments.model, arguments.threads) for _ in range(arguments.rounds + 1)][1:]
    digests = set().union(*(found for _, found, _ in rounds))
    medians = {name: median(seconds[name] for seconds, _, _ in rounds) for name in (HASH, NO_CACHE, EMPTY, WARM)}
    print(f"{arguments.model}, {arguments.threads} threads, medians of {arguments.rounds} rounds")
    for name, seconds in medians.items():
        print(f"{name:12} {seconds:8.2f} s {seconds / medians[HASH]:7.2f} x reading and hashing")
    print(
        f"the cache takes {rounds[-1][2] / 1e3:.0f} kB; the Scans are {'equal' if len(digests) == 1 else 'DIFFERENT'}"
    )
    if arguments.json:
        result = {"seconds": medians, "cache_bytes": rounds[-1][2], "equal": len(digests) == 1}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
