"""The words and tables of one Comparison, whole, as a reader sees them; a change here is a change of what oblong says.

To accept a change, run this file as a script from the root of the repository and read the diff.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oblong.records import Comparison
from oblong.reporting.comparison_tables import render_markdown
from oblong.reporting.reading import read_comparison
from oblong.reporting.scan_reading import read_scan
from tests.report_builders import make_demo_comparison
from tests.scan_builders import make_scan

FOLDER = Path(__file__).parent / "report"


def render_reading(comparison: Comparison) -> str:
    reading = read_comparison(comparison)
    statements = [f"[{statement.topic.value}] {statement.text}" for statement in reading.statements]
    return "\n\n".join([*reading.headline, *statements]) + "\n"


GOLDEN: dict[str, Callable[[], str]] = {
    "comparison.md": lambda: render_markdown(make_demo_comparison()),
    "reading.txt": lambda: render_reading(make_demo_comparison()),
    "scan_reading.txt": lambda: "\n".join(read_scan(make_scan())) + "\n",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_what_the_reader_sees(name: str) -> None:
    assert GOLDEN[name]() == (FOLDER / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    for name, render in GOLDEN.items():
        (FOLDER / name).write_text(render(), encoding="utf-8")
