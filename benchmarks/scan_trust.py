"""Does the stated error bound of kappa hold? 2,000 generated matrices against certified singular values.

    python -m benchmarks.scan_trust [--count 2000] [--seed 0] [--json FILE]

Prescribed kappa 1 to 1e12, wide, tall and square, rank-deficient, scaled by 1e-30 to 1e30, stored in float64, float32,
bfloat16 and float16 (trust_matrices.py); the truth of each has an error that is itself known (certified_svd.py) and is
added to the error that counts against us. Short sides up to 32 go to LAPACK's SVD, above that to the Gram matrix,
from a kappa of about 1e4 on with refinement, and from about 1e6 on to the SVD again.

Scale invariance is checked on products that are exact, for rounding c W would change the matrix by eps * kappa: powers
of two on every matrix, to the last bit, and factors of 29 bits between 1e-30 and 1e30 on the matrices of at most 24
bits, whose products fit into float64. Such a factor changes the rounding of every sum, and the Gram matrix turns that
into some eps * kappa^2 (refinement starts only where the stated bound asks for it): the promise is the larger of 1e-12
and 8 eps * kappa^2, and never more than the stated bound.

Exits with 1 if a bound is exceeded, a rank is wrong, or scaling changes more than that.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.trust_matrices import Case, iter_cases
from oblong.spectra import Method, Spectrum, compute_spectrum

TRUTH_SHARE: Final = 0.1
"""A truth that may be off by more than this share of the bound decides nothing, and fails the run."""

INVARIANCE: Final = 1e-12
GRAM_ROUNDING: Final = 8 * float(np.finfo(np.float64).eps)
FACTOR_BITS: Final = 29


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One matrix; errors of kappa are relative."""

    kind: str
    storage: str
    shape: tuple[int, int]
    kappa: float
    method: str
    is_deficient: bool
    rank_is_right: bool
    error: float
    truth_error: float
    bound: float
    change_by_power_of_two: float
    change_by_factor: float | None

    @property
    def is_exceeded(self) -> bool:
        """Whether kappa may be further off than was stated."""
        return not self.error + self.truth_error <= self.bound

    @property
    def is_undecided(self) -> bool:
        """Whether the truth is too coarse to judge the bound."""
        return not self.truth_error <= TRUTH_SHARE * self.bound

    @property
    def breaks_promise(self) -> bool:
        """Whether anything that is promised of this matrix does not hold."""
        return (
            self.is_exceeded
            or self.is_undecided
            or not self.rank_is_right
            or self.change_by_power_of_two != 0.0
            or (self.change_by_factor is not None and self.change_by_factor > self.allowed_change)
        )

    @property
    def allowed_change(self) -> float:
        """How far an arbitrary factor may move kappa."""
        return max(INVARIANCE, min(self.bound, GRAM_ROUNDING * self.kappa**2))


def check(case: Case, rng: np.random.Generator) -> Row:
    """Measure one matrix, and its multiples."""
    spectrum = compute_spectrum(case.stored)
    assert spectrum.kappa is not None
    assert spectrum.kappa_error is not None
    truth = case.truth
    if truth.kappa_error > TRUTH_SHARE * spectrum.kappa_error:
        truth = case.sharpen()
    return Row(
        kind=case.kind,
        storage=case.storage,
        shape=spectrum.shape,
        kappa=float(truth.kappa),
        method=str(spectrum.method),
        is_deficient=case.rank < min(spectrum.shape),
        rank_is_right=spectrum.rank == case.rank,
        error=abs(float(spectrum.kappa / truth.kappa - 1)),
        truth_error=truth.kappa_error,
        bound=spectrum.kappa_error,
        change_by_power_of_two=compare(spectrum, case, math.ldexp(1.0, int(rng.integers(-99, 100)))),
        change_by_factor=None if case.storage == "float64" else compare(spectrum, case, draw_factor(rng)),
    )


def compare(spectrum: Spectrum, case: Case, factor: float) -> float:
    """Relative difference of kappa(c W) from kappa(W); c W is exact, as float64.

    The mixed route does not take float64 matrices, so where it was taken W is measured as float64 once more.
    """
    if spectrum.method is Method.MIXED:
        spectrum = compute_spectrum(case.stored.astype(np.float64))
    scaled = case.stored.astype(np.float64) * factor
    assert (scaled / factor == case.stored).all()
    kappa = compute_spectrum(scaled).kappa
    assert kappa is not None
    assert spectrum.kappa is not None
    return abs(kappa / spectrum.kappa - 1)


def draw_factor(rng: np.random.Generator) -> float:
    """1e-30 to 1e30, of few enough bits for its products with float32 to be exact."""
    mantissa, exponent = math.frexp(10.0 ** rng.uniform(-30.0, 30.0))
    return math.ldexp(round(math.ldexp(mantissa, FACTOR_BITS)), exponent - FACTOR_BITS)


def run(count: int, seed: int) -> list[Row]:
    """Check `count` matrices."""
    return [check(case, np.random.default_rng([seed, index, 1])) for index, case in enumerate(iter_cases(count, seed))]


def print_rows(title: str, groups: Iterable[tuple[str, list[Row]]]) -> None:
    """One line per group."""
    print(
        f"\n{title:<22} {'matrices':>8} {'exceeded':>8} {'worst error':>11} {'of its bound':>12} {'largest bound':>13} "
        f"{'truth known to':>14} {'c W':>8}"
    )
    for name, rows in groups:
        changes = [row.change_by_factor for row in rows if row.change_by_factor is not None]
        print(
            f"{name:<22} {len(rows):>8} {sum(row.is_exceeded for row in rows):>8} "
            f"{max(row.error for row in rows):>11.1e} "
            f"{max((row.error + row.truth_error) / row.bound for row in rows):>12.1e} "
            f"{max(row.bound for row in rows):>13.1e} {max(row.truth_error for row in rows):>14.1e} "
            f"{max(changes, default=math.nan):>8.1e}"
        )


def group(rows: list[Row], key: Callable[[Row], tuple[object, ...]]) -> list[tuple[str, list[Row]]]:
    """Rows by key, in the order of the keys."""
    keys = sorted({key(row) for row in rows}, key=str)
    return [(" ".join(str(part) for part in k), [row for row in rows if key(row) == k]) for k in keys]


def name_decade(row: Row) -> str:
    """The decade of kappa, for a table."""
    decade = int(math.log10(row.kappa))
    return f"1e{decade:02} .. 1e{decade + 1:02}"


def summarise(rows: list[Row]) -> dict[str, float]:
    """What the page and the report quote."""
    deficient = [row for row in rows if row.is_deficient]
    factors = [row for row in rows if row.change_by_factor is not None]
    return {
        "matrices": len(rows),
        "bound_exceeded": sum(row.is_exceeded for row in rows),
        "truth_too_coarse": sum(row.is_undecided for row in rows),
        "largest_share_of_bound": max((row.error + row.truth_error) / row.bound for row in rows),
        "largest_share_of_bound_gram": max(
            ((row.error + row.truth_error) / row.bound for row in rows if row.method != "svd"), default=0.0
        ),
        "large_well_conditioned": sum(min(row.shape) >= 128 and row.kappa < 1e3 for row in rows),
        "rank_deficient": len(deficient),
        "rank_wrong": sum(not row.rank_is_right for row in rows),
        "changed_by_power_of_two": sum(row.change_by_power_of_two != 0 for row in rows),
        "factors": len(factors),
        "factors_within_1e-12": sum((row.change_by_factor or 0.0) <= INVARIANCE for row in factors),
        "largest_change_by_factor_below_kappa_10": max(
            (row.change_by_factor or 0.0 for row in factors if row.kappa < 10), default=0.0
        ),
        "factors_beyond_promise": sum((row.change_by_factor or 0.0) > row.allowed_change for row in factors),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    start = time.perf_counter()
    rows = run(arguments.count, arguments.seed)
    print_rows("kappa, route", group(rows, lambda row: (name_decade(row), row.method)))
    print_rows("storage", group(rows, lambda row: (row.storage,)))
    print_rows("kind", group(rows, lambda row: (row.kind,)))
    summary = summarise(rows)
    print()
    for name, value in summary.items():
        print(f"{name.replace('_', ' '):<45} {value:g}")
    for row in (row for row in rows if row.breaks_promise):
        print(f"BROKEN {row}")
    print(f"{time.perf_counter() - start:.0f} s")
    if arguments.json:
        report = {"seed": arguments.seed, "summary": summary, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(row.breaks_promise for row in rows))


if __name__ == "__main__":
    sys.exit(main())
