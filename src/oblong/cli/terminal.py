"""The terminal: consoles, progress bars and small number formats shared by the commands.

Results go to stdout; progress, notes and errors go to stderr, so that `oblong ... --json | jq` works.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as _TimeRemainingColumn

PIPE_WIDTH: Final = 120
MINUTES_SHOWN: Final = 120  # beyond them, hours


def stdout() -> Console:
    """Console for results."""
    return _console(stderr=False)


def stderr() -> Console:
    """Console for progress, notes and errors."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    """A console; what is piped into a file is not cut to the 80 columns of a terminal that is not there."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


def progress_bar(unit: str = "") -> Progress:
    """A progress bar with count, elapsed and remaining time on stderr; it leaves no trace off a terminal."""
    columns: list[Any] = [
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("eta"),
        _TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[detail]}"),
    ]
    console = stderr()
    return Progress(*columns, console=console, transient=False, disable=not console.is_terminal)


def note(message: str) -> None:
    """One dim line on stderr."""
    stderr().print(f"[dim]{message}[/dim]")


def warn(message: str) -> None:
    """One yellow line on stderr."""
    stderr().print("[yellow]warning:[/yellow]", message)


def print_json(text: str) -> None:
    """Machine-readable output: exactly one JSON document on stdout."""
    sys.stdout.write(text.rstrip("\n") + "\n")


def format_count(value: int) -> str:
    """A count such as 10.6 M or 318 k."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f} {suffix}"
    return str(value)


def format_bytes(value: int) -> str:
    """A size such as 269 MB (decimal units)."""
    for limit, suffix in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.1f} {suffix}" if value < 10 * limit else f"{value / limit:.0f} {suffix}"
    return f"{value} B"


def format_seconds(value: float) -> str:
    """A duration such as 0.4 s, 42 s, 3 min 20 s or 5 h 07 min."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    minutes, seconds = divmod(int(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < MINUTES_SHOWN else f"{minutes // 60} h {minutes % 60:02d} min"
