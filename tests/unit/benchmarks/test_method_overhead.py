"""The overhead benchmark measures what it says, at sizes that take no time."""

from __future__ import annotations

import pytest

from benchmarks import method_overhead

TINY = ["--width", "16", "--layers", "1", "--vocabulary", "50", "--sequence-length", "8", "--steps", "3"]


def test_a_method_is_timed_and_its_forecast_kept() -> None:
    row = method_overhead.run_method("ewc", method_overhead.parse_arguments(TINY))
    num_trained = 3 * 16 * 48
    assert row["num_trained"] == num_trained
    assert row["forecast_bytes"] == 8 * num_trained + 8 * 16 * 48
    assert row["seconds_per_step"] > 0
    assert row["prepare_seconds"] > 0
    assert row["growth_bytes"] >= 0


def test_methods_are_compared_with_plain_fine_tuning(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"method": name, "seconds_per_step": seconds, "prepare_seconds": 0.0, "growth_bytes": size, "forecast_bytes": 7}
        for name, seconds, size in (("plain", 1.0, 100), ("gem", 2.0, 150), ("plain", 3.0, 100), ("gem", 4.0, 170))
    ]
    plain, gem = method_overhead.summarise(rows)
    assert (plain["times_plain"], plain["extra_bytes"]) == (1.0, 0)
    assert (gem["times_plain"], gem["extra_bytes"]) == (1.5, 60)
    method_overhead.print_table([plain, gem])
    assert "gem" in capsys.readouterr().out
