"""Runs of a benchmark, each in a process of its own, and their medians."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def run_in_process(module: str, arguments: Sequence[str]) -> Row:
    """One run; its last line of output is a row in JSON.

    Raises:
        SystemExit: it failed; with what it said.
    """
    command = [sys.executable, "-m", module, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{' '.join(command[2:])}: {finished.stderr}")
    row: Row = json.loads(finished.stdout.splitlines()[-1])
    return row


def compute_medians(rows: Sequence[Row], *, by: str) -> list[Row]:
    """The median of every number over the rows that agree in the column `by`, in the order of their first ones."""
    medians = []
    for key in dict.fromkeys(row[by] for row in rows):
        mine = [row for row in rows if row[by] == key]
        medians.append(
            {
                name: value if isinstance(value, str) else statistics.median(row[name] for row in mine)
                for name, value in mine[0].items()
            }
        )
    return medians
