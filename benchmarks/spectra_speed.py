"""Time to measure every layer matrix, ours beside what others do, in one process on the same matrices in memory.

    python -m benchmarks.spectra_speed [MODEL] [--rounds 5] [--threads 2] [--json FILE]

Rivals run in turn within a round, so that a noisy neighbour hits all of them; medians over rounds are printed, and the
median of the paired ratios. What each computes:

    oblong             kappa with an error bound, log-volume, Frobenius norm, participation ratio; float64
    oblong f64         the same without float32 arithmetic
    svdvals f32        all singular values, float32 (as PEFT's KappaTuneSelector calls it)
    svd f32            the same with all vectors (as the kappaTune repository calls it)
    svd f64            all singular values, float64, LAPACK through numpy
    oblong full        all singular values besides, float64
    floor              the Gram matrix and its Cholesky factor alone, float64: what our route cannot go below
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.demo_tensors import read_layer_matrices
from benchmarks.floor import run_floor
from oblong.spectra import Precision, Workspaces, compute_spectra

Matrices = Sequence[NDArray[np.float32]]


def run_oblong(
    matrices: Matrices, num_threads: int, *, full: bool = False, precision: Precision = Precision.AUTO
) -> None:
    workspaces = Workspaces()
    by_shape: dict[tuple[int, ...], list[NDArray[np.float32]]] = {}
    for matrix in matrices:
        by_shape.setdefault(matrix.shape, []).append(matrix)
    for group in by_shape.values():
        compute_spectra(group, num_threads=num_threads, full=full, precision=precision, workspaces=workspaces)


def run_svdvals_float32(matrices: Matrices) -> None:
    for matrix in matrices:
        torch.linalg.svdvals(torch.from_numpy(matrix))


def run_svd_float32(matrices: Matrices) -> None:
    for matrix in matrices:
        torch.linalg.svd(torch.from_numpy(matrix), full_matrices=False)


def run_svd_float64(matrices: Matrices) -> None:
    for matrix in matrices:
        np.linalg.svd(matrix.astype(np.float64), compute_uv=False)


def run_floors(matrices: Matrices, num_threads: int) -> None:
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(run_floor, matrices))


def time_rounds(rivals: Mapping[str, Callable[[], None]], num_rounds: int) -> dict[str, list[float]]:
    """Seconds of each rival in each round, after one call to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    rivals["oblong"]()
    for _ in range(num_rounds):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def print_table(seconds: Mapping[str, Sequence[float]]) -> None:
    print(f"{'':>14} {'median s':>9} {'min s':>8} {'times oblong':>13}")
    for name, times in seconds.items():
        ratio = median(t / ours for t, ours in zip(times, seconds["oblong"], strict=True))
        print(f"{name:>14} {median(times):>9.2f} {min(times):>8.2f} {ratio:>13.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    matrices = list(read_layer_matrices(arguments.model).values())
    rivals: dict[str, Callable[[], None]] = {
        "oblong": lambda: run_oblong(matrices, arguments.threads),
        "oblong f64": lambda: run_oblong(matrices, arguments.threads, precision=Precision.FLOAT64),
        "floor": lambda: run_floors(matrices, arguments.threads),
        "svdvals f32": lambda: run_svdvals_float32(matrices),
        "svd f32": lambda: run_svd_float32(matrices),
        "svd f64": lambda: run_svd_float64(matrices),
        "oblong full": lambda: run_oblong(matrices, arguments.threads, full=True),
    }
    print(f"{len(matrices)} matrices, {arguments.threads} threads, {arguments.rounds} rounds")
    with threadpool_limits(arguments.threads, user_api="blas"), torch.inference_mode():
        seconds = time_rounds(rivals, arguments.rounds)
    print_table(seconds)
    if arguments.json:
        arguments.json.write_text(json.dumps(seconds, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
