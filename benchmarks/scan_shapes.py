"""Time to measure one matrix, ours beside what others do, in this process on the same matrices in memory.

    python -m benchmarks.scan_shapes [--shapes 2048x8192 4096x14336 4096x4096] [--kinds planted gaussian]
                                     [--rivals NAME ...] [--rounds 5] [--threads 2] [--json FILE]

Rivals run in turn within a round, so that a noisy neighbour hits all of them; medians over rounds are printed, and the
median of the paired ratios. A rival that takes longer than 20 s in the first round runs in that one only. For each
shape two matrices: a planted one (bfloat16, its singular values known exactly; see `planted`) and a Gaussian one
(float32, the same every time). What each computes:

    oblong             kappa with an error bound, log-volume, Frobenius norm, participation ratio, by the route it picks
    oblong float64     the same by the float64 Gram route alone
    floor              one syrk and one potrf in float64, panel by panel: what the float64 route cannot go below
    svdvals f32        torch.linalg.svdvals(W.float()), as PEFT's KappaTuneSelector calls it
    svd f32            torch.linalg.svd(W, full_matrices=False), as the kappaTune repository calls it
    cond f32           torch.linalg.cond(W)
    numpy f64          numpy.linalg.svd(W, compute_uv=False) in float64
    scipy f64          scipy.linalg.svd(W, compute_uv=False) in float64
    WeightWatcher      weightwatcher.RMT_Util.svd_vals(W.astype(float)): what its analyze() calls for one layer on a CPU
                       (scipy's SVD in float64, with its checks), without its power-law fit
    soup-cli           soup_cli.utils.spectrum_scan.compute_snr(W): numpy's SVD and a ratio of sums of singular values

WeightWatcher is in the `bench` extra. soup-cli asks for an older typer than oblong's: `pip install --no-deps
soup-cli==0.77.0` is enough for this; a rival that is not installed is named and left out. Exits 1 if oblong's kappa of
a planted matrix is off by more than it states, or if --hold is given and a promised ratio is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.floor import run_floor
from benchmarks.planted import Truth, plant
from oblong.spectra import Precision, Spectrum, compute_spectra

Matrix = NDArray[np.float32]
Rival = Callable[[Matrix], object]

OBLONG, FLOOR, SVDVALS, SVD = "oblong", "floor", "svdvals f32", "svd f32"
FLOAT64 = "oblong float64"
SHAPES = ("2048x8192", "4096x14336", "4096x4096")
KAPPA = 100.0
SQUARE_KAPPA = 1e4
SEED = 20250625
SLOW_SECONDS = 20.0
GOALS = {
    ("2048x8192", SVDVALS): 13.0,
    ("2048x8192", SVD): 18.0,
    ("4096x14336", SVDVALS): 13.0,
    ("4096x4096", SVDVALS): 5.0,
}
"""How many times oblong's time a rival takes at least."""

FLOOR_LIMIT = 1.5
"""How many times the floor's time oblong takes at most, at short side 1024 and more."""

OPTIONAL = {
    "WeightWatcher": ("weightwatcher.RMT_Util", "svd_vals"),
    "soup-cli": ("soup_cli.utils.spectrum_scan", "compute_snr"),
}


def run_oblong(matrix: Matrix, num_threads: int, **options: Any) -> Spectrum:
    """Our own measure of one matrix."""
    return compute_spectra([matrix], num_threads=num_threads, **options)[0]


def list_rivals(num_threads: int) -> dict[str, Rival]:
    """Every rival that can run here, by name; oblong first."""
    rivals: dict[str, Rival] = {OBLONG: lambda matrix: run_oblong(matrix, num_threads)}
    rivals[FLOAT64] = lambda matrix: run_oblong(matrix, num_threads, precision=Precision.FLOAT64)
    rivals |= {
        FLOOR: run_floor,
        SVDVALS: lambda matrix: torch.linalg.svdvals(torch.from_numpy(matrix).float()),
        SVD: lambda matrix: torch.linalg.svd(torch.from_numpy(matrix), full_matrices=False),
        "cond f32": lambda matrix: torch.linalg.cond(torch.from_numpy(matrix)),
        "numpy f64": lambda matrix: np.linalg.svd(matrix.astype(np.float64), compute_uv=False),
        "scipy f64": lambda matrix: scipy.linalg.svd(matrix.astype(np.float64), compute_uv=False),
    }
    for name in OPTIONAL:
        if (rival := find_optional(name)) is not None:
            rivals[name] = rival
    return rivals


def find_optional(name: str) -> Rival | None:
    """A rival from a package that need not be installed."""
    module, function = OPTIONAL[name]
    try:
        call = getattr(import_module(module), function)
    except ImportError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return None
    if name == "WeightWatcher":
        return lambda matrix: call(matrix.astype(float))
    return lambda matrix: call(matrix)


def make_matrices(shape: tuple[int, int]) -> dict[str, tuple[Matrix, Truth | None]]:
    """The matrices of one shape, by kind."""
    generator = np.random.default_rng((SEED, *shape))
    planted = plant(shape, SQUARE_KAPPA if shape[0] == shape[1] else KAPPA, generator)
    gaussian = generator.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    return {"planted": (planted.to_float32(), planted.compute_truth()), "gaussian": (gaussian, None)}


def time_rounds(rivals: Mapping[str, Rival], matrix: Matrix, num_rounds: int) -> dict[str, list[float]]:
    """Seconds of each rival in each round, after one call of ours to warm up; slow ones run once."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    rivals[OBLONG](matrix)
    for _ in range(num_rounds):
        for name, run in rivals.items():
            if not seconds[name] or seconds[name][0] <= SLOW_SECONDS:
                start = time.perf_counter()
                run(matrix)
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summarise(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Median seconds of each rival, and the median of its ratios to ours within a round."""
    ours = seconds[OBLONG]
    return {
        name: {
            "median_seconds": median(times),
            "times_oblong": median(theirs / mine for theirs, mine in zip(times, ours, strict=False)),
            "seconds": list(times),
        }
        for name, times in seconds.items()
    }


def find_missed_goals(shape: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The promises that the ratios of one shape break."""
    missed = [
        f"{shape}: {name} takes only {rows[name]['times_oblong']:.1f} times ours, {goal} was promised"
        for (where, name), goal in GOALS.items()
        if where == shape and name in rows and rows[name]["times_oblong"] < goal
    ]
    if FLOOR in rows and rows[FLOOR]["times_oblong"] < 1 / FLOOR_LIMIT and min(parse_shape(shape)) >= 1024:
        missed.append(f"{shape}: {1 / rows[FLOOR]['times_oblong']:.2f} times the floor, {FLOOR_LIMIT} was promised")
    return missed


def parse_shape(text: str) -> tuple[int, int]:
    """(m, n) from `MxN`."""
    rows, columns = (int(side) for side in text.lower().split("x"))
    return rows, columns


def check_truth(shape: str, found: Spectrum, truth: Truth) -> list[str]:
    """What our kappa of a planted matrix got wrong."""
    assert found.kappa is not None
    assert found.kappa_error is not None
    error = abs(found.kappa - truth.kappa) / truth.kappa
    print(f"  kappa {found.kappa:.6g} is off by {error:.1e}; stated: at most {found.kappa_error:.1e}")
    return [] if error <= found.kappa_error + 1e-12 else [f"{shape}: kappa off by {error:.1e}"]


def print_rows(rows: Mapping[str, Mapping[str, Any]]) -> None:
    for name, row in rows.items():
        times = f"{row['times_oblong']:>8.2f} times oblong"
        once = "  (one round)" if len(row["seconds"]) == 1 else ""
        print(f"  {name:>14} {row['median_seconds']:>9.3f} s {times}{once}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), metavar="MxN")
    parser.add_argument("--kinds", nargs="+", default=["planted", "gaussian"], help="planted, gaussian")
    parser.add_argument("--rivals", nargs="+", help="some of those above, and oblong; all by default", metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--hold", action="store_true", help="exit 1 also if a promised ratio is missed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rivals = {
        name: run
        for name, run in list_rivals(arguments.threads).items()
        if not arguments.rivals or name in {OBLONG, *arguments.rivals}
    }
    result: dict[str, Any] = {"threads": arguments.threads, "rounds": arguments.rounds, "shapes": {}}
    errors: list[str] = []
    print(f"{arguments.threads} threads, medians of {arguments.rounds} rounds")
    with threadpool_limits(arguments.threads, user_api="blas"), torch.inference_mode():
        for shape in arguments.shapes:
            for kind, (matrix, truth) in make_matrices(parse_shape(shape)).items():
                if kind not in arguments.kinds:
                    continue
                print(f"{shape} {kind}", flush=True)
                rows = summarise(time_rounds(rivals, matrix, arguments.rounds))
                print_rows(rows)
                result["shapes"].setdefault(shape, {})[kind] = rows
                errors += check_truth(shape, run_oblong(matrix, arguments.threads), truth) if truth else []
                errors += find_missed_goals(f"{shape}", rows) if arguments.hold else []
    if arguments.json:
        arguments.json.write_text(json.dumps({**result, "errors": errors}, indent=1) + "\n")
    if errors:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
