"""The tutorial's code blocks, run in order in an empty folder, as a newcomer would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run_block(language: str, code: str, folder: Path) -> str:
    """Run one block; fail with everything it printed."""
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{code}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.demo_model
@pytest.mark.parametrize("page", ["docs/tutorial.md"])
def test_code_blocks_run(page: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(blocks) >= 10
    for language, code in blocks:
        run_block(language, code, tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 100_000


@pytest.mark.demo_model
@pytest.mark.parametrize("page", ["docs/reference/python.md"])
def test_code_blocks_of_reference_pages_run(page: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    for language, code in blocks:
        run_block(language, code, tmp_path)


def test_every_measure_is_documented() -> None:
    from oblong.records import Measures, Status

    page = (ROOT / "docs/reference/measures.md").read_text(encoding="utf-8")
    missing = [name for name in (*Measures.model_fields, *Status) if f"`{name}`" not in page]
    assert missing == []


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "design").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
