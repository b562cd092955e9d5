"""`oblong speech fetch-data`: human speech from Debian packages and synthesised speech, as manifests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from oblong.cli.terminal import note, print_json, progress_bar, stdout, warn
from oblong.errors import DataError

if TYPE_CHECKING:
    from oblong.corpora.speech.building.build import BuildRequest, BuiltSet
    from oblong.corpora.speech.building.packages import Report
    from oblong.corpora.speech.building.summary import ManifestRow

FOLDER: Final = "speech"


def fetch_data(
    folder: Annotated[
        Path | None, typer.Option(help="Where the speech goes; default: in oblong's cache directory.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Build only this set; may be repeated. --list shows all.", metavar="NAME")
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0.01, max=200, help="Of synthetic speech for training, English and German together. [4]"),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="20 minutes of synthetic, 20 of human speech, from 33 MB of packages."),
    ] = False,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="Synthesise with pico, flite or espeak; may be repeated. [all three]", metavar="NAME"),
    ] = None,
    packages: Annotated[
        Path | None, typer.Option(help="Take the .deb files from this folder and download nothing.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of sentences, voices and manners of speaking.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Build anew although it is there.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="Show the sets and build nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Build speech to train and test with; what is there already is not built again.

    Human speech comes from Debian packages (no root needed), synthetic speech from free voices that read free
    texts. Every manifest line carries its licence; test sentences and synthetic test voices never occur in training.

    Example: oblong speech fetch-data --quick
    """
    if show_list:
        print_sets()
        return
    from oblong.checkpoints.locate import cache_dir
    from oblong.corpora.speech.building.build import DEFAULT_HOURS, QUICK_HOURS, BuildRequest
    from oblong.corpora.speech.building.voices import ENGINES

    request = BuildRequest(
        folder=(folder or cache_dir() / FOLDER).expanduser(),
        names=choose_names(only, quick=quick),
        hours=hours if hours is not None else QUICK_HOURS if quick else DEFAULT_HOURS,
        quick=quick,
        engines=tuple(dict.fromkeys(engine or ENGINES)),
        given_packages=require_folder(packages),
        seed=seed,
        force=force,
    )
    print_built(request.folder, build_with_progress(request), as_json=as_json)


def choose_names(only: Sequence[str] | None, *, quick: bool) -> tuple[str, ...]:
    """The sets that were named; else all, or those of the quick build."""
    from oblong.corpora.speech.building.catalogue import SETS

    return tuple(dict.fromkeys(only or (name for name, item in SETS.items() if item.in_quick or not quick)))


def require_folder(packages: Path | None) -> Path | None:
    """The folder of packages, if one was named.

    Raises:
        DataError: there is no such folder.
    """
    if packages is not None and not packages.is_dir():
        raise DataError(f"{packages}: no such folder; --packages names one with .deb files")
    return packages


def build_with_progress(request: BuildRequest) -> list[BuiltSet]:
    """Build, with a progress bar for every stage; off a terminal one line for each."""
    from oblong.corpora.speech.building.build import build_sets

    with show_stages() as report:
        return build_sets(request, report)


@contextmanager
def show_stages() -> Iterator[Report]:
    """A report callback that draws one bar per stage."""
    with progress_bar() as bar:
        tasks = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total or None, detail="")
                if bar.disable:
                    note(stage)
            bar.update(tasks[stage], completed=done, total=total or None)

        yield report


def print_built(folder: Path, built: Sequence[BuiltSet], *, as_json: bool) -> None:
    """What there is now: a table, what was left out, where it lies."""
    from oblong.corpora.speech.building.summary import summarise_manifest

    rows = [row for item in built for name, found in item.manifests.items() for row in summarise_manifest(name, found)]
    for item in built:
        if item.skips.total:
            warn(escape(f"{item.name}: {item.skips.describe()}"))
        if not item.is_new:
            note(f"{item.name} was already there")
    if as_json:
        skipped = {item.name: dict(item.skips.counts) for item in built}
        content = {"folder": str(folder), "manifests": [asdict(row) for row in rows], "skipped": skipped}
        print_json(json.dumps(content, ensure_ascii=False, indent=1))
        return
    stdout().print(render_table(rows))
    stdout().print(f"{folder}: the manifests; licences in {folder / 'LICENCES'}", soft_wrap=True, markup=False)


def render_table(rows: Sequence[ManifestRow]) -> Table:
    """Manifest, language, clips, minutes, speakers, kind; with totals."""
    table = Table(box=None, show_footer=True, pad_edge=False)
    table.add_column("manifest", footer="total")
    table.add_column("language")
    table.add_column("clips", justify="right", footer=f"{sum(row.num_utterances for row in rows):,}")
    table.add_column("minutes", justify="right", footer=f"{sum(row.seconds for row in rows) / 60:.1f}")
    table.add_column("speakers", justify="right")
    table.add_column("kind")
    for row in rows:
        minutes = f"{row.seconds / 60:.1f}"
        table.add_row(row.manifest, row.lang, f"{row.num_utterances:,}", minutes, str(row.num_speakers), row.kind)
    return table


def print_sets() -> None:
    """The sets that can be built."""
    from oblong.corpora.speech.building.catalogue import SETS

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "kind", "in --quick", "what"):
        table.add_column(heading)
    for name, item in SETS.items():
        table.add_row(name, item.kind, "yes" if item.in_quick else "", item.title)
    stdout().print(table)
