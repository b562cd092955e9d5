from __future__ import annotations

import json
from pathlib import Path

import pytest

from oblong.cli.cache import parse_size
from oblong.cli.main import run
from oblong.errors import SelectionError
from oblong.scanning.store import OFF, PLACE_VARIABLE
from tests.checkpoint_builders import write_model

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(PLACE_VARIABLE, str(tmp_path / "spectra"))
    return str(write_model(tmp_path / "model"))


def read_info(capsys: Capture) -> dict[str, int]:
    capsys.readouterr()
    assert run(["cache", "info", "--json"]) == 0
    info: dict[str, int] = json.loads(capsys.readouterr().out)
    return info


def test_a_scan_fills_it_and_no_cache_does_not(model: str, tmp_path: Path, capsys: Capture) -> None:
    assert run(["scan", model, "-o", str(tmp_path / "a.jsonl"), "--no-cache"]) == 0
    assert read_info(capsys)["num_entries"] == 0
    assert run(["scan", model, "-o", str(tmp_path / "b.jsonl")]) == 0
    assert read_info(capsys)["num_entries"] == 15


def test_info_says_where_and_how_much(model: str, tmp_path: Path, capsys: Capture) -> None:
    assert run(["scan", model, "-o", str(tmp_path / "a.jsonl")]) == 0
    capsys.readouterr()
    assert run(["cache", "info"]) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "spectra") in shown.replace("\n", "")
    assert "15 matrices" in shown
    assert "damaged" not in shown


def test_prune_and_clear(model: str, tmp_path: Path, capsys: Capture) -> None:
    assert run(["scan", model, "-o", str(tmp_path / "a.jsonl")]) == 0
    capsys.readouterr()
    assert run(["cache", "prune", "--older-than", "1", "--max-size", "1GB"]) == 0
    assert "removed 0 entries" in capsys.readouterr().out
    assert run(["cache", "prune", "--max-size", "5kB"]) == 0
    assert 0 < read_info(capsys)["num_bytes"] <= 5000
    assert run(["cache", "clear"]) == 0
    assert read_info(capsys)["num_entries"] == 0


@pytest.mark.parametrize(
    ("text", "size"), [("200MB", 200_000_000), ("1.5 gb", 1_500_000_000), ("300k", 300_000), ("7", 7), ("0", 0)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "-3MB", "3TB", "MB"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(SelectionError, match=r"--max-size .* is no size"):
        parse_size(text)


def test_turned_off_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv(PLACE_VARIABLE, OFF)
    assert run(["cache", "info"]) == 2
    assert "turned off by $OBLONG_SPECTRA_CACHE=off" in " ".join(capsys.readouterr().err.split())
