from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from oblong.cli.cache import parse_size
from oblong.cli.main import run
from oblong.corpora.speech import Sound
from oblong.errors import SelectionError
from oblong.scanning.store import OFF, PLACE_VARIABLE
from oblong.speech.features.cache import FeatureCache
from oblong.speech.features.shards import PLACE_VARIABLE as FEATURES_VARIABLE
from oblong.speech.features.shards import Encoder
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


@pytest.fixture
def features(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two recordings of 0.5 s of an encoder of width 4, and a line that was torn."""
    folder = tmp_path / "features"
    monkeypatch.setenv(FEATURES_VARIABLE, str(folder))
    encoder = Encoder(digest="e" * 64, width=4, description={})
    kept = FeatureCache(folder).open_encoder(encoder)
    for key in "ab":
        kept.add(key, np.zeros((25, 4), np.int16), Sound(num_samples=8000, peak=1.0))
    kept.close()
    with next(folder.rglob("*.jsonl")).open("a") as index:
        index.write("\ntorn")
    return folder


def test_features_are_shown_beside_the_findings(features: Path, capsys: Capture) -> None:
    assert run(["cache", "info"]) == 0
    shown = capsys.readouterr().out
    assert "0 matrices" in shown
    assert "2 recordings, 0.00 h, by 1 encoder\n" in shown
    assert "damaged  1 lines" in shown
    assert run(["cache", "info", "--only", "features", "--json"]) == 0
    usage = json.loads(capsys.readouterr().out)["features"]
    assert usage["directory"] == str(features)
    assert (usage["num_clips"], usage["audio_seconds"]) == (2, 1.0)
    assert usage["num_bytes"] == sum(path.stat().st_size for path in features.rglob("*.*"))


def test_features_are_cleared_alone_and_with_the_rest(features: Path, capsys: Capture) -> None:
    assert run(["cache", "clear", "--only", "spectra"]) == 0
    assert FeatureCache(features).measure_usage().num_clips == 2
    assert run(["cache", "prune", "--max-size", "1MB"]) == 0
    assert "2 recordings are left" in capsys.readouterr().out
    assert run(["cache", "clear"]) == 0
    assert "0 recordings are left" in capsys.readouterr().out
    assert not list(features.rglob("*.bf16"))


def test_features_that_are_turned_off_say_so(model: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv(FEATURES_VARIABLE, OFF)
    assert run(["cache", "info"]) == 0
    assert run(["cache", "clear", "--only", "features"]) == 2
    assert "turned off by $OBLONG_FEATURE_CACHE=off" in " ".join(capsys.readouterr().err.split())
