"""`oblong cache`: what earlier scans found, kept for later ones."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from oblong.cli.terminal import format_bytes, print_json, stdout
from oblong.errors import SelectionError

if TYPE_CHECKING:
    from oblong.scanning.store import Pruned, SpectrumStore, Usage

BYTES_BY_UNIT: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}

app = typer.Typer(
    help="What earlier scans found, kept so that later ones need not compute it again.", no_args_is_help=True
)


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Say where the cache lies and how full it is.

    Example: oblong cache info
    """
    store = require_store()
    usage = store.measure_usage()
    if as_json:
        print_json(render_json(store, usage))
        return
    console = stdout()
    console.print(f"where    {store.directory}", markup=False, soft_wrap=True)
    console.print(f"entries  {usage.num_entries} matrices")
    console.print(f"size     {format_bytes(usage.num_bytes)}")
    if usage.oldest is not None:
        console.print(f"oldest   {datetime.fromtimestamp(usage.oldest, UTC):%Y-%m-%d}")
    if usage.num_invalid:
        console.print(f"damaged  {usage.num_invalid} lines, which are ignored; `oblong cache prune` removes them")


@app.command()
def prune(
    older_than: Annotated[
        float | None, typer.Option(min=0, help="Remove what was found more than so many days ago.", metavar="DAYS")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Then remove the oldest until the rest fits: 200MB, 1.5GB.", metavar="SIZE")
    ] = None,
) -> None:
    """Remove old entries, and always what is damaged.

    Example: oblong cache prune --older-than 90 --max-size 200MB
    """
    limit = None if max_size is None else parse_size(max_size)
    print_pruned(require_store().prune(older_than_days=older_than, max_bytes=limit))


@app.command()
def clear() -> None:
    """Remove every entry; the next scan of each model computes everything.

    Example: oblong cache clear
    """
    print_pruned(require_store().clear())


def require_store() -> SpectrumStore:
    """The store that scans use.

    Raises:
        SelectionError: the environment turns it off.
    """
    from oblong.scanning.store import PLACE_VARIABLE, SpectrumStore, locate_store

    place = locate_store()
    if place is None:
        raise SelectionError(f"the cache is turned off by ${PLACE_VARIABLE}=off: unset it, or set it to a directory")
    return SpectrumStore(place)


def parse_size(text: str) -> int:
    """Bytes from 200MB, 1.5 GB, 300k or 1000 (decimal units).

    Raises:
        SelectionError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", text.strip().lower())
    if match is None:
        raise SelectionError(f"--max-size {text!r} is no size: give something like 200MB or 1.5GB")
    return int(float(match[1]) * BYTES_BY_UNIT[match[2]])


def print_pruned(pruned: Pruned) -> None:
    """One line."""
    stdout().print(
        f"removed {pruned.num_removed} entries, {format_bytes(pruned.bytes_freed)}; {pruned.num_kept} are left"
    )


def render_json(store: SpectrumStore, usage: Usage) -> str:
    """The same as a JSON object; `oldest` in seconds since 1970, null when there is no entry."""
    from dataclasses import asdict

    return json.dumps({"directory": str(store.directory), **asdict(usage)}, ensure_ascii=False, indent=1)
