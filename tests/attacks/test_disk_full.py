"""A disk that is full while a Scan is written: simulated by a limit on file size, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oblong.records import Scan
from oblong.scanning import scan
from tests.checkpoint_builders import write_model

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from oblong.cli.main import main
main(sys.argv[1:])
"""


def scan_with_limit(limit_bytes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`oblong scan` in a process whose files cannot grow beyond the limit."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", LIMITED, str(limit_bytes), "scan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_FSIZE")
def test_it_is_named_the_old_file_survives_and_the_scan_goes_on(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    output = tmp_path / "s.jsonl"
    output.write_text("precious")
    finished = scan_with_limit(9_000, str(model), "-o", str(output), "--force")
    assert finished.returncode == 2
    assert "the disk is full; what was finished is kept in s.jsonl.partial" in " ".join(finished.stderr.split())
    assert output.read_text() == "precious"
    messages: list[str] = []
    result = scan(
        str(model), output=output, force=True, on_progress=lambda s: messages.append(s.message) if s.message else None
    )
    assert messages[0].startswith("resuming: ")
    assert Scan.read(output).digest() == result.digest() == scan(str(model)).digest()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_FSIZE")
def test_not_even_a_header_fits(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    finished = scan_with_limit(10, str(model), "-o", str(tmp_path / "s.jsonl"))
    assert finished.returncode == 2
    assert "the disk is full" in finished.stderr
    assert not (tmp_path / "s.jsonl").exists()
