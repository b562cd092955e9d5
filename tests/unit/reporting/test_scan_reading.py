from __future__ import annotations

import math

import pytest

from oblong.records import Scan, Status
from oblong.reporting.scan_reading import read_scan, shape_share
from tests.scan_builders import make_scan, make_unit
from tests.tolerances import REPORT_ARITHMETIC


def share_of(scan: Scan) -> float | None:
    return shape_share([(unit, unit.measures) for unit in scan if unit.measures is not None])


def test_size() -> None:
    assert read_scan(make_scan())[0] == (
        "demo holds 241 tensors with 134.5 M parameters. Of 241 rows 211 have a measured spectrum and 210 are eligible "
        "for training by default."
    )


def test_range_names_both_ends() -> None:
    scan = make_scan([make_unit("round", kappa=2.0), make_unit("middle", kappa=9.0), make_unit("long", kappa=20_000.4)])
    assert "Among the eligible, kappa runs from 2 (round) to 20,000 (long)." in read_scan(scan)


def test_an_extreme_that_is_not_resolved_is_doubted() -> None:
    scan = make_scan([make_unit("round", kappa=2.0), make_unit("long", kappa=20_000.0, resolved=False)])
    assert (
        "Among the eligible, kappa runs from 2 (round) to 20,000 (long, not resolved by its storage)."
    ) in read_scan(scan)


def test_shape_explains_everything_when_kappa_is_a_function_of_it() -> None:
    units = [make_unit(f"{n}-{copy}", shape=(n, 576), kappa=float(n)) for n in (64, 192) for copy in range(3)]
    texts = read_scan(make_scan(units))
    assert (
        "The shape of a matrix alone accounts for 100 % of the variance of ln kappa. Across shapes, ranking by kappa "
        "mostly ranks shapes."
    ) in texts


def test_shape_share_is_between_over_total() -> None:
    # ln kappa: shape A {0, 2}, shape B {2, 4}; grand mean 2, group means 1 and 3.
    # Between 2*1 + 2*1 = 4, total 4 + 0 + 0 + 4 = 8: one half.
    logs = {(64, 576): (0.0, 2.0), (192, 576): (2.0, 4.0)}
    units = [
        make_unit(f"{shape[0]}-{value}", shape=shape, kappa=math.exp(value))
        for shape, values in logs.items()
        for value in values
    ]
    scan = make_scan(units)
    assert share_of(scan) == pytest.approx(0.5, rel=REPORT_ARITHMETIC)
    assert not any("mostly ranks shapes" in text for text in read_scan(scan))


def test_a_transposed_shape_is_the_same_shape() -> None:
    units = [
        make_unit(f"{shape}-{kappa}", shape=shape, kappa=kappa)
        for shape in ((64, 576), (576, 64))
        for kappa in (2.0, 4.0)
    ]
    assert share_of(make_scan(units)) is None


def test_equal_kappas_have_no_variance_to_explain() -> None:
    units = [make_unit(f"{n}-{copy}", shape=(n, 576), kappa=3.0) for n in (64, 192) for copy in range(2)]
    assert share_of(make_scan(units)) is None


def test_excess_counts_the_rounder_than_random_and_names_the_role() -> None:
    scan = make_scan(
        [
            make_unit("a", role="q", kappa=5.0, null_kappa=10.0),
            make_unit("b", role="k", kappa=20.0, null_kappa=10.0),
        ]
    )
    assert (
        "1 of 2 are rounder than the median random matrix of their shape; the mean excess is largest for k (+0.69)."
    ) in read_scan(scan)


@pytest.mark.parametrize(("resolved", "num_sentences"), [(False, 1), (True, 0)])
def test_unresolved_is_said_when_it_is_so(resolved: bool, num_sentences: int) -> None:
    scan = make_scan([make_unit("a", resolved=resolved), make_unit("b")])
    assert sum(text.startswith("For 1 of 2 the smallest singular value") for text in read_scan(scan)) == num_sentences


def test_a_scan_without_measures_speaks_of_its_size_only() -> None:
    assert len(read_scan(make_scan([make_unit("a", kappa=None, status=Status.ZERO)]))) == 1
