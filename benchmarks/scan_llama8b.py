"""A whole scan of a Llama-3-8B-shaped checkpoint whose singular values are known: time, memory, and is it right?

    python -m benchmarks.scan_llama8b [--layers 32] [--folder FOLDER] [--threads N] [--minutes 10] [--json FILE]

Generates the checkpoint (16 GB, sharded, bfloat16; see `planted_models`) or reuses the folder's, runs `oblong scan` on
it in a process of its own without the cache of findings, and holds it to its promises:

- wall time, imports included: 10 minutes for all 32 layers on two cores, in proportion to the work for fewer;
- peak memory above the imported program: 1.2 GB;
- every planted tensor has a row, its kappa is within the stated `kappa_error` of the truth, and its log-volume within
  1e-9 of it, relatively.

The files are in the page cache if memory allows: they were just written. Exits 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.planted_check import find_largest_error, list_errors
from benchmarks.planted_models import MODELS, ensure_model
from benchmarks.scan_process import ScanProcess, run_scan
from oblong.records import Scan, Unit

MODEL = MODELS["llama8b"]
NUM_LAYERS = len(MODEL.layers)
LIMIT_BYTES = 1_200_000_000


def count_operations(units: Iterable[Unit]) -> float:
    """Floating-point operations of one syrk and one potrf of each measured matrix."""
    sides = (sorted(unit.matrix_shape) for unit in units if unit.matrix_shape)
    return sum(short**2 * (long + short / 3) for short, long in sides)


def count_whole_model() -> float:
    """The same for all layers, from shapes alone."""
    sides = (sorted(shape) for tensor in MODEL.list_tensors() for _, shape in tensor.units)
    return sum(short**2 * (long + short / 3) for short, long in sides)


def sum_seconds(scan: Scan) -> dict[str, dict[str, float]]:
    """Seconds and number of matrices by role and shape, the slowest first; what is not in them is reading."""
    kinds: dict[str, dict[str, float]] = {}
    for unit in scan.measured:
        rows, columns = unit.matrix_shape or (0, 0)
        kind = kinds.setdefault(f"{unit.role} {rows} x {columns}", {"matrices": 0, "seconds": 0.0})
        kind["matrices"] += 1
        kind["seconds"] += unit.seconds or 0.0
    return dict(sorted(kinds.items(), key=lambda item: -item[1]["seconds"]))


def print_result(found: ScanProcess, kinds: Mapping[str, Mapping[str, float]], limit_seconds: float) -> None:
    for kind, numbers in kinds.items():
        each = numbers["seconds"] / numbers["matrices"]
        print(f"{kind:26} {numbers['matrices']:5.0f} matrices {numbers['seconds']:9.1f} s {each:8.2f} s each")
    rest = found.seconds - sum(numbers["seconds"] for numbers in kinds.values())
    print(f"{'imports, waiting, writing':26} {'':14} {rest:9.1f} s")
    print(f"{'wall time':26} {'':14} {found.seconds:9.1f} s   (to hold: {limit_seconds:.0f} s)")
    print(
        f"{'memory above import':26} {'':14} {found.scan_bytes / 1e6:8.0f} MB   (to hold: {LIMIT_BYTES / 1e6:.0f} MB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=NUM_LAYERS)
    parser.add_argument("--folder", type=Path, help="default: a folder in the temporary directory, kept for next time")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--minutes", type=float, default=10.0, help="the wall time to hold for all 32 layers")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.gettempdir()) / f"oblong-planted-llama8b-{arguments.layers}"
    truth = ensure_model(folder, MODEL.change(num_hidden_layers=arguments.layers))
    with tempfile.TemporaryDirectory() as directory:
        found = run_scan(folder, Path(directory), "--no-cache", "--threads", str(arguments.threads))
    kinds = sum_seconds(found.scan)
    limit_seconds = 60 * arguments.minutes * count_operations(found.scan) / count_whole_model()
    errors = list_errors(found.scan, truth)
    print(f"{folder}: {arguments.layers} layers, {len(truth)} planted matrices, {arguments.threads} threads")
    print_result(found, kinds, limit_seconds)
    largest = find_largest_error(found.scan, truth)
    print(f"{len(truth) - len(errors)} of {len(truth)} right; largest relative error of kappa {largest:.1e}")
    errors += [f"{found.seconds:.0f} s is more than {limit_seconds:.0f} s"] if found.seconds > limit_seconds else []
    errors += [f"{found.scan_bytes / 1e6:.0f} MB is too much memory"] if found.scan_bytes > LIMIT_BYTES else []
    if arguments.json:
        result: dict[str, Any] = {
            "layers": arguments.layers,
            "threads": arguments.threads,
            "seconds": found.seconds,
            "limit_seconds": limit_seconds,
            "imported_bytes": found.imported_bytes,
            "scan_bytes": found.scan_bytes,
            "kinds": kinds,
            "planted": len(truth),
            "largest_kappa_error": largest,
            "errors": errors,
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if errors:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
