"""The interval of kappa against weights whose original is known, through files as quantisers write them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import null_law, scan_noise
from benchmarks.noise_formats import FORMATS, store_gptq4, store_int8, store_nf4

COUNT = 10  # every kind of weights, in two shapes


@pytest.fixture(scope="module")
def originals() -> list[scan_noise.Original]:
    return list(scan_noise.iter_originals(COUNT, seed=3, with_demo=False))


@pytest.mark.parametrize("storage", FORMATS)
def test_the_interval_holds_and_resolved_means_something(storage: str, originals: list[scan_noise.Original]) -> None:
    rows = list(scan_noise.measure(storage, originals))
    assert len(rows) == COUNT
    assert all(row.is_covered for row in rows)
    assert not any(row.resolved and row.is_hidden for row in rows)
    assert 1.0 <= float(np.median([row.floor_ratio for row in rows])) <= 2.0


def test_files_hold_what_was_rounded(originals: list[scan_noise.Original]) -> None:
    """What is read differs from the original by at most the step of the format, so that the check is about rounding."""
    for storage, allowed in {
        "bf16": 0.01,
        "int8, row scales": 0.2,
        "nf4": 0.3,
        "int4, groups": 0.3,
        "Q4_1": 0.3,
    }.items():
        for row in scan_noise.measure(storage, originals):
            norm = row.sigma_min * row.kappa
            assert 0 < row.error_norm < allowed * norm


def test_packers_agree_on_shapes() -> None:
    weight = np.random.default_rng(0).normal(0, 0.02, (16, 128))
    assert [entry[2] for entry in store_gptq4("m", weight)] == [(16, 16), (1, 2), (1, 16)]
    assert [entry[2] for entry in store_int8("m", weight)] == [(16, 128), (16,)]
    assert store_nf4("m", weight)[0][2] == (1024, 1)


def test_a_missed_truth_is_seen(originals: list[scan_noise.Original]) -> None:
    row = next(iter(scan_noise.measure("bf16", originals[:1])))
    fields = {name: getattr(row, name) for name in scan_noise.Row.__slots__}
    assert not scan_noise.Row(**{**fields, "kappa": row.kappa_low / 2}).is_covered
    assert scan_noise.Row(**{**fields, "sigma_min": row.error_norm / 2}).is_hidden


@pytest.mark.parametrize("shape", [(192, 192), (200, 220), (192, 576)], ids=str)
def test_the_null_table_agrees_with_laws_and_fresh_samples(shape: tuple[int, int]) -> None:
    (row,) = null_law.run(1000, full=(), sampled=(shape,))
    assert not row.breaks_promise
    assert row.fresh_low <= row.fresh_median <= row.fresh_high
    fields = {name: getattr(row, name) for name in null_law.Row.__slots__}
    assert null_law.Row(**{**fields, "distance": 0.2}).breaks_promise
