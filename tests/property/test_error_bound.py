"""The stated errors hold where clusters at both ends of the spectrum mislead."""

from __future__ import annotations

import pytest

from benchmarks.error_bound import CHECKS, check_all, summarise


@pytest.fixture(scope="module")
def summary() -> dict[str, dict[str, float]]:
    """Of 900 matrices, a third for each kind of bound."""
    return summarise(list(check_all(900, seed=20)))


@pytest.mark.parametrize("kind", CHECKS)
def test_no_error_exceeds_its_bound(summary: dict[str, dict[str, float]], kind: str) -> None:
    figures = summary[kind]
    assert figures["matrices"] == 300
    assert figures["exceeded"] == 0, figures
