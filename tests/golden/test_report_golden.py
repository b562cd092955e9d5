"""The words and tables of one Comparison, whole, as a reader sees them; a change here is a change of what oblong says.

To accept a change, run this file as a script from the root of the repository and read the diff.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from oblong.records import Comparison
from oblong.reporting.comparison_tables import render_comparison, render_markdown
from oblong.reporting.gain_tables import render_gains
from oblong.reporting.reading import read_comparison
from oblong.reporting.relearning_tables import render_relearning
from oblong.reporting.scan_reading import read_scan
from oblong.reporting.sequence_tables import render_sequence
from tests.report_builders import make_demo_comparison
from tests.scan_builders import make_scan
from tests.sequence_builders import make_sequence
from tests.sweep_builders import make_sweep

FOLDER = Path(__file__).parent / "report"


def render_reading(comparison: Comparison) -> str:
    reading = read_comparison(comparison)
    statements = [f"[{statement.topic.value}] {statement.text}" for statement in reading.statements]
    return "\n\n".join([*reading.headline, *statements]) + "\n"


def render_terminal(comparison: Comparison, width: int) -> str:
    """The tables as a terminal of that width shows them."""
    console = Console(width=width, file=io.StringIO(), highlight=False)
    for render in (render_sequence, render_gains, render_comparison, render_relearning):
        for table in render(comparison, width=width):
            console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


GOLDEN: dict[str, Callable[[], str]] = {
    "comparison.md": lambda: render_markdown(make_demo_comparison()),
    "reading.txt": lambda: render_reading(make_demo_comparison()),
    "sweep_reading.txt": lambda: render_reading(make_sweep(seeds=(0, 1))),
    "sweep_80.txt": lambda: render_terminal(make_sweep(), 80),
    "sweep_120.txt": lambda: render_terminal(make_sweep(), 120),
    "sequence_80.txt": lambda: render_terminal(make_sequence(), 80),
    "sequence_reading.txt": lambda: render_reading(make_sequence()),
    "scan_reading.txt": lambda: "\n".join(read_scan(make_scan())) + "\n",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_what_the_reader_sees(name: str) -> None:
    assert GOLDEN[name]() == (FOLDER / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    for name, render in GOLDEN.items():
        (FOLDER / name).write_text(render(), encoding="utf-8")
