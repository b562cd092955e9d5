"""Make src/oblong/spectra/null_table.json: quantiles of ln kappa, standardised, of Gaussian matrices.

    python benchmarks/make_null_table.py            # about 3 minutes on one core
    python benchmarks/make_null_table.py --samples 2000 --output table.json

A p x q Gaussian matrix has the singular values of a bidiagonal one with independent chi variables (Dumitriu and Edelman
2002), so a sample costs O(p) instead of O(p^2 q). The extreme values come from bisection on the signs of the stationary
qd transform, which is accurate to the last digits for the smallest ones too, for all samples at once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from oblong.spectra.null import compute_standardisation
from oblong.spectra.spectrum import FloatArray

SEED = 19880401
SHORT_SIDES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
DIFFERENCES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
LEVELS = (
    *(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
    *(0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.975, 0.99, 0.995, 0.998, 0.999),
)
NUM_BISECTIONS = 40
DEFAULT_OUTPUT = Path(__file__).parents[1] / "src/oblong/spectra/null_table.json"


def sample_bidiagonals(p: int, q: int, num: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Squared diagonals (p, num) and off-diagonals (p - 1, num)."""
    diagonal = rng.chisquare(np.arange(q, q - p, -1.0)[:, None], (p, num))
    off_diagonal = rng.chisquare(np.arange(p - 1.0, 0.0, -1.0)[:, None], (p - 1, num))
    return diagonal, off_diagonal


def count_below(diagonal: FloatArray, off_diagonal: FloatArray, x: FloatArray) -> FloatArray:
    """How many squared singular values of each bidiagonal lie below x, shape (num,)."""
    shift = -x
    count = np.zeros_like(x)
    for row in range(len(diagonal)):
        pivot = diagonal[row] + shift
        count += pivot < 0
        if row < len(off_diagonal):
            shift = shift * (off_diagonal[row] / pivot) - x
    return count


def bisect(diagonal: FloatArray, off_diagonal: FloatArray, rank: int, low: FloatArray, high: FloatArray) -> FloatArray:
    """Logarithm of the squared singular value that has `rank` smaller ones."""
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        is_above = count_below(diagonal, off_diagonal, np.exp(middle)) <= rank
        low, high = np.where(is_above, middle, low), np.where(is_above, high, middle)
    return (low + high) / 2


def sample_log_kappa(p: int, q: int, num: int, rng: np.random.Generator) -> FloatArray:
    """Logarithms of kappa of `num` Gaussian p x q matrices."""
    diagonal, off_diagonal = sample_bidiagonals(p, q, num, rng)
    largest = np.log(diagonal.sum(axis=0) + off_diagonal.sum(axis=0))  # the trace
    top = bisect(diagonal, off_diagonal, p - 1, largest - np.log(p), largest)
    bottom = bisect(diagonal, off_diagonal, 0, top - 60.0, top)
    result: FloatArray = (top - bottom) / 2
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    arguments = parser.parse_args()
    rng = np.random.default_rng(SEED)
    quantiles = []
    for p in SHORT_SIDES:
        row = []
        for difference in DIFFERENCES:
            centre, scale = compute_standardisation(p, p + difference)
            z = (sample_log_kappa(p, p + difference, arguments.samples, rng) - centre) / scale
            row.append([round(float(value), 4) for value in np.quantile(z, LEVELS)])
        quantiles.append(row)
        print(f"p = {p}: median z from {min(r[14] for r in row):.3f} to {max(r[14] for r in row):.3f}", flush=True)
    table = {
        "made_by": "benchmarks/make_null_table.py",
        "seed": SEED,
        "samples": arguments.samples,
        "short_sides": SHORT_SIDES,
        "differences": DIFFERENCES,
        "levels": LEVELS,
        "quantiles": quantiles,
    }
    arguments.output.write_text(json.dumps(table, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
