"""Does the stated interval hold the kappa that the weights had before they were rounded?

    python -m benchmarks.scan_noise [--count 350] [--demo] [--formats bf16 nf4] [--json FILE]

Unrounded matrices (noise_matrices.py: Gaussian, heavy-tailed, low rank with noise, planted kappa of 3 to 1e5, outlier
channels; seven shapes; with --demo also the layers of the demo model, whose weights count as unrounded then) are stored
in each format as its quantiser does (noise_formats.py), and `oblong scan` reads the files. Per format:

    covered     share of [kappa_low, kappa_high] that hold the float64 kappa of the unrounded matrix: at least 99 %
    resolved    share of rows that oblong calls resolved
    of these    among the resolved: share whose unrounded s_r was not above the rounding's actual norm ||E||_2 after all
    floor/||E|| stated floor over actual norm; above 1 the interval is safe by Weyl's inequality; infinite for weights
                that the format holds exactly, as bf16 does those of the demo model

Exits with 1 if an interval covers less than 99 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import oblong
from benchmarks.demo_tensors import read_layer_matrices
from benchmarks.noise_formats import FORMATS
from benchmarks.noise_matrices import iter_matrices
from oblong.checkpoints import open_checkpoint
from oblong.records import Measures
from oblong.spectra import compute_spectrum

PROMISED_COVERAGE: Final = 0.99
IN_A_FILE: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """An unrounded matrix (out, in) and what float64 says about it."""

    kind: str
    weight: NDArray[np.float64]
    kappa: float
    sigma_min: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One matrix in one format. `error_norm` is ||E||_2, in the unit of the matrix."""

    storage: str
    kind: str
    shape: tuple[int, int]
    kappa: float
    sigma_min: float
    error_norm: float
    stored_kappa: float
    kappa_low: float
    kappa_high: float | None
    noise_floor: float
    resolved: bool

    @property
    def is_covered(self) -> bool:
        """Whether the interval holds the truth."""
        return self.kappa_low <= self.kappa and (self.kappa_high is None or self.kappa <= self.kappa_high)

    @property
    def is_hidden(self) -> bool:
        """Whether the rounding was larger than the smallest singular value it was done to."""
        return self.sigma_min <= self.error_norm

    @property
    def floor_ratio(self) -> float:
        """Stated over actual norm of the rounding."""
        return self.noise_floor / self.error_norm if self.error_norm else np.inf


def iter_originals(count: int, seed: int, with_demo: bool) -> Iterator[Original]:
    """Generated matrices, then those of the demo model; each measured in float64."""
    for kind, weight in iter_matrices(count, seed):
        yield make_original(kind, weight)
    if with_demo:
        for layer in read_layer_matrices("demo").values():
            yield make_original("demo model", layer.astype(np.float64))


def make_original(kind: str, weight: NDArray[np.float64]) -> Original:
    """With its kappa over all singular values."""
    spectrum = compute_spectrum(weight)
    assert spectrum.kappa_full is not None
    assert spectrum.sigma_min is not None
    return Original(kind=kind, weight=weight, kappa=spectrum.kappa_full, sigma_min=spectrum.sigma_min)


def measure(storage: str, originals: Iterable[Original]) -> Iterator[Row]:
    """Store, scan and compare, a file of some matrices at a time."""
    chunk: list[Original] = []
    for original in originals:
        chunk.append(original)
        if len(chunk) == IN_A_FILE:
            yield from measure_file(storage, chunk)
            chunk = []
    if chunk:
        yield from measure_file(storage, chunk)


def measure_file(storage: str, originals: list[Original]) -> Iterator[Row]:
    """All rows of one checkpoint."""
    weights = {f"layers.{index}.linear": original.weight for index, original in enumerate(originals)}
    with tempfile.TemporaryDirectory() as folder:
        path = FORMATS[storage](Path(folder) / "model", weights)
        scan = oblong.scan(path, cache=False, num_threads=1)
        checkpoint = open_checkpoint(path)
        tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
        for name, original in zip(weights, originals, strict=True):
            (unit,) = (unit for unit in scan.units if unit.name == f"{name}.weight")
            assert unit.measures is not None, f"{storage}: {unit.name} is {unit.status}: {unit.reason}"
            values = checkpoint.read(tensors[unit.name])
            assert values is not None
            yield compare(storage, original, values, unit.measures)


def compare(storage: str, original: Original, values: NDArray[np.floating[Any]], measures: Measures) -> Row:
    """The row of one matrix."""
    error = values.astype(np.float64) - original.weight
    norm = compute_spectrum(error).sigma_max
    return Row(
        storage=storage,
        kind=original.kind,
        shape=(error.shape[0], error.shape[1]),
        kappa=original.kappa,
        sigma_min=original.sigma_min,
        error_norm=norm or 0.0,
        stored_kappa=measures.kappa,
        kappa_low=measures.kappa_low,
        kappa_high=measures.kappa_high,
        noise_floor=measures.noise_floor,
        resolved=measures.resolved,
    )


def print_table(rows: list[Row]) -> None:
    print(
        f"{'format':<20} {'weights':<19} {'matrices':>8} {'covered':>8} {'resolved':>8} {'of these':>8} "
        f"{'floor/||E||: 1 %':>16} {'50 %':>6} {'99 %':>6}"
    )
    for storage in dict.fromkeys(row.storage for row in rows):
        chosen = [row for row in rows if row.storage == storage]
        print_line(storage, "all", chosen)
        for kind in dict.fromkeys(row.kind for row in chosen):
            print_line("", kind, [row for row in chosen if row.kind == kind])


def print_line(storage: str, kind: str, rows: list[Row]) -> None:
    resolved = [row for row in rows if row.resolved]
    hidden = sum(row.is_hidden for row in resolved) / len(resolved) if resolved else 0.0
    ratios = [row.floor_ratio for row in rows]  # infinite where nothing was lost, so nothing is interpolated
    low, middle, high = np.quantile(ratios, [0.01, 0.5, 0.99], method="inverted_cdf")
    print(
        f"{storage:<20} {kind:<19} {len(rows):>8} {compute_coverage(rows):>8.2%} {len(resolved) / len(rows):>8.1%} "
        f"{hidden:>8.2%} {low:>16.2f} {middle:>6.2f} {high:>6.2f}"
    )


def compute_coverage(rows: list[Row]) -> float:
    """Share of intervals that hold the truth."""
    return sum(row.is_covered for row in rows) / len(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=350)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    originals = list(iter_originals(arguments.count, arguments.seed, arguments.demo))
    rows = [row for storage in arguments.formats for row in measure(storage, originals)]
    print_table(rows)
    if arguments.json:
        report = {"seed": arguments.seed, "count": arguments.count, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    storages = dict.fromkeys(arguments.formats)
    missed = [s for s in storages if compute_coverage([row for row in rows if row.storage == s]) < PROMISED_COVERAGE]
    for storage in missed:
        print(f"BROKEN {storage}: fewer than {PROMISED_COVERAGE:.0%} of the intervals hold the unrounded kappa")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
