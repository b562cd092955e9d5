"""The overhead benchmark measures what it says, at sizes that take no time."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import method_overhead
from benchmarks.processes import Row

TINY = ["--width", "16", "--layers", "1", "--vocabulary", "50", "--sequence-length", "8", "--steps", "3"]


def test_a_method_is_timed_and_its_forecast_kept() -> None:
    row = method_overhead.run_method("ewc", method_overhead.parse_arguments(TINY))
    num_trained = 3 * 16 * 48
    assert row["num_trained"] == num_trained
    assert row["forecast_bytes"] == 8 * num_trained + 8 * 16 * 48
    assert row["seconds_per_step"] > 0
    assert row["prepare_seconds"] > 0
    assert row["growth_bytes"] >= 0


def test_a_search_before_training_is_timed_and_kept_short() -> None:
    """9 readings of the old data instead of 177: the base, and at most two generations of four."""
    row = method_overhead.run_method("evolutionary_pruning", method_overhead.parse_arguments(TINY))
    assert row["forecast_bytes"] == 4 * row["num_trained"] + 4 * 16 * 48
    assert row["prepare_seconds"] > 0


def make_row(method: str, seconds: float, growth: int, forecast: int = 0) -> Row:
    return {
        "method": method,
        "seconds_per_step": seconds,
        "prepare_seconds": 0.0,
        "growth_bytes": growth,
        "forecast_bytes": forecast,
    }


def test_methods_are_compared_with_plain_fine_tuning_and_their_forecast(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [make_row("plain", 1.0, 100), make_row("gem", 2.0, 150, 50), make_row("mas", 1.0, 150, 30)]
    rows += [make_row("plain", 3.0, 100), make_row("gem", 4.0, 170, 50), make_row("mas", 1.0, 150, 30)]
    plain, gem, mas = method_overhead.summarise(rows)
    assert (plain["times_plain"], plain["extra_bytes"], plain["of_forecast"]) == (1.0, 0, 1.0)
    assert (gem["times_plain"], gem["memory_times_plain"], gem["extra_bytes"]) == (1.5, 1.6, 60)
    assert gem["of_forecast"] == pytest.approx(160 / 150)
    assert mas["of_forecast"] == pytest.approx(150 / 130)
    assert [row["passes"] for row in (plain, gem, mas)] == [True, True, False]
    method_overhead.print_table([plain, gem, mas])
    printed = capsys.readouterr().out
    assert "FAIL" in printed
    assert "2 of 3 within 1.15" in printed


def test_finished_runs_are_kept_and_not_done_again(tmp_path: Path) -> None:
    settings = method_overhead.list_settings(method_overhead.parse_arguments(["ewc", "--steps", "4", "--repeats", "2"]))
    rows = [make_row("plain", 1.0, 100), make_row("ewc", 2.0, 150)]
    file = tmp_path / "overhead.json"
    method_overhead.write_finished(file, settings, rows)
    assert method_overhead.read_finished(file, settings) == rows
    assert method_overhead.list_missing(["plain", "ewc", "mas"], 2, rows) == ["mas", "plain", "ewc", "mas"]
    assert method_overhead.list_missing(["plain", "ewc"], 1, rows) == []
    with pytest.raises(SystemExit, match="other settings"):
        method_overhead.read_finished(file, {**settings, "steps": 5})
    assert method_overhead.read_finished(None, settings) == []
