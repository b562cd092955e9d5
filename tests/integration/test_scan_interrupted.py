"""Kill a scan, again and again: the finished file must be that of a scan that nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from oblong.records import Scan
from oblong.scanning import scan
from tests.checkpoint_builders import llama_tensors, write_model

# A scan that takes its time: it rests after every unit, so that a signal finds it in the middle also where the machine
# lets the sender wait. A shell has its background jobs ignore Ctrl-C, and their children inherit that.
SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from oblong.cli import scan as command
update, seconds = command.ScanBar.update, float(sys.argv[1])
command.ScanBar.update = lambda self, state: (time.sleep(seconds), update(self, state))[1]
from oblong.cli.main import main
main(sys.argv[2:])
"""
REST_SECONDS = 0.3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), llama_tensors(layers=8, width=48, hidden=96))


def start(model: Path, output: Path, *options: str, rest: float = REST_SECONDS) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(rest), "scan", str(model), "-o", str(output), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for_lines(partial: Path, number: int, process: subprocess.Popen[str]) -> None:
    """Until the partial file has so many lines."""
    deadline = time.monotonic() + 60
    while not partial.exists() or partial.read_bytes().count(b"\n") < number:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, "the scan makes no progress"
        time.sleep(0.005)


def read_comparable_lines(path: Path) -> list[dict[str, Any]]:
    """Every line, without what may differ between two runs."""
    header, *units = [json.loads(line) for line in path.read_text().splitlines()]
    header.pop("provenance")
    for unit in units:
        unit.pop("seconds")
    return [header, *units]


def stop(process: subprocess.Popen[str], how: signal.Signals) -> tuple[int, str]:
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_kill_nine_three_times_and_resume(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "s.jsonl"
    partial = tmp_path / "s.jsonl.partial"
    for number in (6, 22, 50):
        process = start(model, output)
        wait_for_lines(partial, number, process)
        assert stop(process, signal.SIGKILL)[0] == -signal.SIGKILL
        assert not output.exists()
    kept = len(partial.read_text().splitlines()) - 1
    process = start(model, output, rest=0.0)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f"resuming: {kept} of " in errors
    undisturbed = tmp_path / "undisturbed.jsonl"
    expected = scan(str(model), output=undisturbed)
    assert Scan.read(output).digest() == expected.digest()
    assert read_comparable_lines(output) == read_comparable_lines(undisturbed)
    assert not partial.exists()


def test_kill_nine_and_every_singular_value_is_there(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "s.jsonl"
    for number in (9, 31):
        process = start(model, output, "--spectrum", "full")
        wait_for_lines(tmp_path / "s.jsonl.partial", number, process)
        stop(process, signal.SIGKILL)
    process = start(model, output, "--spectrum", "full", rest=0.0)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "resuming: " in errors
    expected = scan(str(model), spectrum="full")
    found = Scan.read(output)
    assert found.digest() == expected.digest()
    for unit in expected.measured:
        assert found.singular_values(unit.name).tolist() == expected.singular_values(unit.name).tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.jsonl", "s.jsonl.spectra"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_says_how_to_go_on(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "s.jsonl"
    process = start(model, output)
    wait_for_lines(tmp_path / "s.jsonl.partial", 5, process)
    code, errors = stop(process, signal.SIGINT)
    assert code == 130
    assert "run the same command to go on" in errors
    assert "Traceback" not in errors
    assert not output.exists()
