"""How much of their stated bounds the errors use up, on matrices made to mislead: clusters at both ends.

    python -m benchmarks.error_bound [--matrices 30000] [--seed 0] [--json FILE]

Random matrices of short side 33 to 120 in float64; at each end of the spectrum one or two singular values lie within
1e-9 to 1e-3 of the extreme one, relatively, and kappa is 3 to 1e4. Three bounds, each checked on a third of them:

    search      of the largest eigenvalue, by Lanczos stopped at a tolerance from 1e-1 to 1e-10
    refinement  of the smallest singular value, by the block Davidson iteration from a search stopped early
    kappa       as `compute_spectrum` states it, for tolerances from 1e-4 to 1e-7

The first two are probable statements, and decide when to stop; kappa's, which never claims less than the tolerance, is
the promise. The truth is prescribed, up to a rounding that is subtracted. Exits with 1 if an error of kappa exceeds its
bound.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oblong.spectra import compute_spectrum
from oblong.spectra.gram_route import MAX_LANCZOS_STEPS, NUM_REFINED
from oblong.spectra.lanczos import compute_largest
from oblong.spectra.refinement import refine_lowest, smooth
from oblong.spectra.tall import TallMatrix
from oblong.spectra.workspace import Workspace

Array = NDArray[np.float64]

ROUNDING = 50 * float(np.finfo(np.float64).eps)
"""Relative to the largest singular value: error of the prescribed spectrum and of the products."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One matrix; errors are relative, rounding subtracted."""

    kind: str
    num_rows: int
    num_columns: int
    kappa: float
    error: float
    bound: float

    @property
    def ratio(self) -> float:
        """Share of the bound that the error uses up."""
        return 0.0 if self.error == 0.0 else self.error / self.bound if self.bound else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustered:
    """A = U diag(values) V^T, q x p; values descending."""

    left: Array
    values: Array
    right: Array

    @property
    def matrix(self) -> Array:
        """A."""
        result: Array = (self.left * self.values) @ self.right.T
        return result

    @property
    def kappa(self) -> float:
        """s_1 / s_p."""
        return float(self.values[0] / self.values[-1])


def draw_values(rng: np.random.Generator, p: int) -> Array:
    """Singular values, descending, with a cluster at each end."""
    kappa = 10 ** rng.uniform(math.log10(3), 4)
    spacing = rng.choice(["geometric", "linear", "random"])
    inner = {
        "geometric": np.geomspace(kappa, 1.0, p),
        "linear": np.linspace(kappa, 1.0, p),
        "random": np.sort(rng.uniform(1.0, kappa, p))[::-1],
    }[spacing].copy()
    for end, extreme, direction in ((0, kappa, -1.0), (-1, 1.0, 1.0)):
        size = int(rng.integers(2, 4))
        offsets = np.append(0.0, 10 ** rng.uniform(-9, -3, size - 1))
        inner[np.arange(size) if end == 0 else -1 - np.arange(size)] = extreme * (1.0 + direction * offsets)
    result: Array = np.sort(inner)[::-1]
    return result


def draw(rng: np.random.Generator) -> Clustered:
    """A random matrix with clusters at both ends."""
    p = int(rng.integers(33, 121))
    q = p + int(rng.integers(0, 60))
    return Clustered(
        left=np.linalg.qr(rng.standard_normal((q, p)))[0],
        values=draw_values(rng, p),
        right=np.linalg.qr(rng.standard_normal((p, p)))[0],
    )


def check_search(rng: np.random.Generator) -> Row:
    """The bound that comes with the largest eigenvalue of A^T A."""
    given = draw(rng)
    eigenvalues = given.values**2
    found = compute_largest(
        lambda v: given.right @ (eigenvalues * (given.right.T @ v)),
        given.values.size,
        tolerance=10 ** rng.uniform(-10, -1),
        max_steps=MAX_LANCZOS_STEPS,
    )
    assert found is not None
    return make_row("search", given, found.values[0] / eigenvalues[0] - 1.0, found.error, ROUNDING)


def check_refinement(rng: np.random.Generator) -> Row:
    """The bound that comes with the smallest singular value."""
    given = draw(rng)
    tall = TallMatrix(given.matrix, float(np.abs(given.matrix).max()), Workspace())
    factor = tall.compute_gram().factorise()
    assert factor is not None
    inverse = compute_largest(
        factor.solve_vector,
        given.values.size,
        tolerance=10 ** rng.uniform(-8, 0),
        max_steps=MAX_LANCZOS_STEPS,
        num_pairs=int(rng.integers(2, NUM_REFINED + 1)),
    )
    assert inverse is not None
    found = refine_lowest(tall, factor, smooth(factor, inverse.vectors), tolerance=10 ** rng.uniform(-10, 0))
    smallest = math.ldexp(float(found.values[0]), tall.exponent)
    rounding = ROUNDING * given.kappa
    return make_row("refinement", given, smallest / given.values[-1] - 1.0, found.relative_error, rounding)


def check_kappa(rng: np.random.Generator) -> Row:
    """The bound that comes with kappa."""
    given = draw(rng)
    found = compute_spectrum(given.matrix, tolerance=10 ** rng.uniform(-7, -4))
    assert found.kappa is not None
    assert found.kappa_error is not None
    return make_row("kappa", given, found.kappa / given.kappa - 1.0, found.kappa_error, ROUNDING * given.kappa)


CHECKS: Mapping[str, Callable[[np.random.Generator], Row]] = {
    "search": check_search,
    "refinement": check_refinement,
    "kappa": check_kappa,
}


def make_row(kind: str, given: Clustered, error: float, bound: float, rounding: float) -> Row:
    """A row, with what rounding explains taken off the error."""
    return Row(
        kind=kind,
        num_rows=given.left.shape[0],
        num_columns=given.values.size,
        kappa=given.kappa,
        error=max(abs(float(error)) - rounding, 0.0),
        bound=bound,
    )


def check_all(num_matrices: int, seed: int) -> Iterator[Row]:
    """Yield a row per matrix, the three kinds in turn."""
    rng = np.random.default_rng(seed)
    for index in range(num_matrices):
        yield list(CHECKS.values())[index % len(CHECKS)](rng)


def summarise(rows: list[Row]) -> dict[str, dict[str, float]]:
    """By kind: how many, how many were exceeded, and the largest shares of the bounds."""
    summary: dict[str, dict[str, float]] = {}
    for kind in CHECKS:
        ratios = np.array([row.ratio for row in rows if row.kind == kind])
        summary[kind] = {
            "matrices": ratios.size,
            "exceeded": int((ratios > 1.0).sum()),
            "worst": float(ratios.max()),
            "0.999 quantile": float(np.quantile(ratios, 0.999)),
            "median": float(np.median(ratios)),
        }
    return summary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = list(check_all(arguments.matrices, arguments.seed))
    summary = summarise(rows)
    print(f"error / bound {'matrices':>9} {'exceeded':>9} {'median':>9} {'0.999':>9} {'worst':>9}")
    for kind, figures in summary.items():
        print(
            f"{kind:<13} {figures['matrices']:>9} {figures['exceeded']:>9} {figures['median']:>9.1e} "
            f"{figures['0.999 quantile']:>9.1e} {figures['worst']:>9.1e}"
        )
    worst = max(rows, key=lambda row: row.ratio)
    print("worst:", asdict(worst))
    if arguments.json:
        record = {"arguments": {"matrices": arguments.matrices, "seed": arguments.seed}, "summary": summary}
        arguments.json.write_text(json.dumps(record | {"worst": asdict(worst)}, indent=1) + "\n", encoding="utf-8")
    return int(summary["kappa"]["exceeded"] > 0)


if __name__ == "__main__":
    sys.exit(main())
