"""A short run of benchmarks/scan_mutations.py, and the mutants that once ended a scan badly."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation_judge import judge, judge_files
from tests.mutation_seeds import make_seeds

SEED = 1
# Each was a traceback, a warning of a library, or gigabytes asked for: opcodes of a pickle at which torch trips in all
# ways (61, 80, 97, 134, 366), an architecture that is no name (170), a block size that is no pair (885, 1047), scales
# that do not fit (1155), an offset that wraps (1391), a storage of 4 GB (1052).
ONCE_BAD = (61, 80, 97, 134, 170, 366, 885, 1047, 1052, 1155, 1391)
NUM_FRESH = 180


@pytest.mark.parametrize("kind", make_seeds())
def test_what_is_mutated_is_sound(kind: str, tmp_path: Path) -> None:
    assert judge_files(make_seeds()[kind], tmp_path / "m") == (0, None, "")


@pytest.mark.parametrize("number", ONCE_BAD)
def test_what_once_ended_a_scan_badly_does_so_no_more(number: int, tmp_path: Path) -> None:
    verdict = judge(SEED, number, tmp_path)
    assert verdict.fault is None, verdict


@pytest.mark.parametrize("first", range(0, NUM_FRESH, 20))
def test_mutants_are_scanned_or_named(first: int, tmp_path: Path) -> None:
    verdicts = [judge(SEED, number, tmp_path) for number in range(first, first + 20)]
    assert [verdict for verdict in verdicts if verdict.fault is not None] == []


def test_mutants_are_of_both_kinds(tmp_path: Path) -> None:
    """Were all refused at once, nothing behind the headers would be tried."""
    codes = [judge(SEED, number, tmp_path).code for number in range(40)]
    assert min(codes.count(0), codes.count(2)) >= 5
