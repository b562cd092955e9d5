"""Benchmarks that run in processes of their own: what comes back, and what becomes of many runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.processes import compute_medians, run_in_process


def test_the_last_line_of_a_process_is_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "printing.py").write_text("import sys; print('a note'); print('{\"arm\": \"' + sys.argv[1] + '\"}')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_in_process("printing", ["full, bf16"]) == {"arm": "full, bf16"}


def test_a_process_that_fails_ends_the_benchmark_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing.py").write_text("raise SystemExit('out of cheese')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^failing --arm plan: out of cheese"):
        run_in_process("failing", ["--arm", "plan"])


def test_medians_are_taken_per_arm_in_the_order_of_the_first_runs() -> None:
    rows = [{"arm": arm, "seconds": seconds} for arm, seconds in (("b", 1), ("a", 9), ("b", 5), ("b", 2), ("a", 7))]
    assert compute_medians(rows, by="arm") == [{"arm": "b", "seconds": 2}, {"arm": "a", "seconds": 8}]
