"""`oblong show SCAN UNIT`: one unit, with its singular values where the Scan has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oblong.cli.main import run
from oblong.records.spectra import get_spectra_path
from oblong.scanning import scan
from tests.checkpoint_builders import write_model

Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def full(tmp_path: Path) -> Path:
    scan(str(write_model(tmp_path / "model")), output=tmp_path / "full.jsonl", spectrum="full")
    return tmp_path / "full.jsonl"


def test_it_prints_measures_quantiles_and_the_null(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(full), Q]) == 0
    printed = capsys.readouterr().out
    for part in (Q, "kappa_excess", "non-zero singular values", "Marchenko-Pastur"):
        assert part in printed


def test_json_has_every_value(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(full), Q, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["singular_values"]) == 16
    assert content["singular_values"][0] == pytest.approx(content["measures"]["sigma_max"])


def test_without_them_it_prints_the_rest_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan(str(write_model(tmp_path / "model")), output=tmp_path / "s.jsonl")
    for name, reason in ((Q, "scan again with --spectrum full"), ("model.norm.weight", "has no singular values")):
        assert run(["show", str(tmp_path / "s.jsonl"), name]) == 0
        captured = capsys.readouterr()
        assert name in captured.out
        assert "Marchenko-Pastur" not in captured.out
        assert reason in " ".join(captured.err.split())


def test_what_cannot_be_shown_is_refused(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(full), "nothing"]) == 2
    assert "the most similar are" in capsys.readouterr().err
    assert run(["show", str(full), Q, "--top", "3"]) == 2
    assert "do not go with one unit" in capsys.readouterr().err
    assert run(["show", str(get_spectra_path(full))]) == 2
    assert "`oblong show full.jsonl UNIT` shows them" in " ".join(capsys.readouterr().err.split())
    get_spectra_path(full).write_bytes(b"damaged")
    assert run(["show", str(full), Q]) == 2
    assert "full.jsonl.spectra: is damaged" in " ".join(capsys.readouterr().err.split())
    get_spectra_path(full).unlink()
    assert run(["show", str(full), Q]) == 2
    assert "move and rename both together" in " ".join(capsys.readouterr().err.split())


def test_scan_says_where_they_lie(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output = str(write_model(tmp_path / "model")), tmp_path / "s.jsonl"
    assert run(["scan", model, "-o", str(output), "--spectrum", "full"]) == 0
    assert f"singular values in {output}.spectra" in capsys.readouterr().out
    assert run(["scan", model, "-o", str(output), "--spectrum", "full", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["singular_values"] == f"{output}.spectra"
    assert run(["scan", model, "-o", str(output), "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["singular_values"] is None
