"""kappa and log-volume of every layer matrix against LAPACK's float64 singular value decomposition.

    python -m benchmarks.spectra_accuracy [MODEL] [--json FILE]

The reference has an error of its own, about eps * kappa, which counts against us here. Exits with 1 if a relative error
of kappa exceeds 1e-6 where kappa < 1e6, or exceeds the bound that was stated with it anywhere. Where our own method was
the SVD, both sides are LAPACK's and agree by construction.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.demo_tensors import read_layer_matrices
from oblong.spectra import compute_spectrum

PROMISED_ERROR = 1e-6
PROMISED_BELOW = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One matrix; errors are relative."""

    name: str
    kappa: float
    method: str
    kappa_error: float
    stated_bound: float
    log_volume_error: float

    @property
    def is_exceeded(self) -> bool:
        """Whether the bound was wrong."""
        return self.kappa_error > self.stated_bound

    @property
    def breaks_promise(self) -> bool:
        """Whether kappa is worse than promised."""
        return self.kappa < PROMISED_BELOW and self.kappa_error > PROMISED_ERROR


def check(name: str, matrix: NDArray[np.float32]) -> Row:
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    spectrum = compute_spectrum(matrix)
    assert spectrum.kappa is not None
    assert spectrum.kappa_error is not None
    assert spectrum.log_volume is not None
    nonzero = values[: spectrum.rank]
    log_volume = float(np.log(nonzero).sum())
    return Row(
        name=name,
        kappa=float(nonzero[0] / nonzero[-1]),
        method=str(spectrum.method),
        kappa_error=float(abs(spectrum.kappa * nonzero[-1] / nonzero[0] - 1)),
        stated_bound=spectrum.kappa_error,
        log_volume_error=abs(spectrum.log_volume - log_volume) / max(1.0, abs(log_volume)),
    )


def print_table(rows: list[Row]) -> None:
    print(f"{'kappa':>20} {'matrices':>9} {'by svd':>7} {'worst error':>12} {'worst bound':>12} {'log-volume':>11}")
    edges = [1.0, 1e2, 1e3, 1e4, 1e5, 1e6, np.inf]
    for low, high in pairwise(edges):
        group = [row for row in rows if low <= row.kappa < high]
        if group:
            print(
                f"{low:>9.0e} .. {high:<7.0e} {len(group):>9} {sum(row.method == 'svd' for row in group):>7} "
                f"{max(row.kappa_error for row in group):>12.1e} {max(row.stated_bound for row in group):>12.1e} "
                f"{max(row.log_volume_error for row in group):>11.1e}"
            )
    exceeded = sum(row.is_exceeded for row in rows)
    worst = max(row.kappa_error / row.stated_bound for row in rows)
    print(f"stated bound exceeded: {exceeded} of {len(rows)}; the largest error is {worst:.1e} of its bound")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [check(name, matrix) for name, matrix in read_layer_matrices(arguments.model).items()]
    print_table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return int(any(row.is_exceeded or row.breaks_promise for row in rows))


if __name__ == "__main__":
    sys.exit(main())
