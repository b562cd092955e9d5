"""`oblong cache`: what earlier scans found, and what speech encoders made of recordings, kept for later runs."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from oblong.cli.terminal import format_bytes, print_json, stdout
from oblong.errors import SelectionError

if TYPE_CHECKING:
    from oblong.scanning.store import Pruned, SpectrumStore
    from oblong.speech.features.cache import FeatureCache

SECONDS_PER_HOUR: Final = 3600
BYTES_BY_UNIT: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}

app = typer.Typer(
    help="What earlier scans found and what encoders heard, kept so that it need not be computed again.",
    no_args_is_help=True,
)


class Kind(StrEnum):
    """What is kept."""

    SPECTRA = "spectra"
    FEATURES = "features"


Only = Annotated[Kind | None, typer.Option("--only", help="Findings of scans, or features of speech encoders alone.")]


@app.command()
def info(
    only: Only = None, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """Say where the caches lie and how full they are.

    Example: oblong cache info
    """
    store = None if only is Kind.FEATURES else require_store()
    features = None if only is Kind.SPECTRA else find_features(required=only is Kind.FEATURES)
    if as_json:
        print_json(render_json(store, features))
        return
    if store is not None:
        print_spectra(store)
    if store is not None and features is not None:
        stdout().print()
    if features is not None:
        print_features(features)


@app.command()
def prune(
    older_than: Annotated[
        float | None, typer.Option(min=0, help="Remove what was found more than so many days ago.", metavar="DAYS")
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(help="Then remove the oldest until the rest of each kind fits: 200MB, 1.5GB.", metavar="SIZE"),
    ] = None,
    only: Only = None,
) -> None:
    """Remove old entries, and always what is damaged; of features, whole files of up to 1 GB.

    Example: oblong cache prune --older-than 90 --max-size 200MB --only spectra
    """
    limit = None if max_size is None else parse_size(max_size)
    if only is not Kind.FEATURES:
        print_pruned(require_store().prune(older_than_days=older_than, max_bytes=limit))
    if only is not Kind.SPECTRA and (features := find_features(required=only is Kind.FEATURES)):
        print_features_pruned(features, features.prune(older_than_days=older_than, max_bytes=limit))


@app.command()
def clear(only: Only = None) -> None:
    """Remove every entry; the next scan of each model, and the next run on speech, computes everything.

    Example: oblong cache clear --only features
    """
    if only is not Kind.FEATURES:
        print_pruned(require_store().clear())
    if only is not Kind.SPECTRA and (features := find_features(required=only is Kind.FEATURES)):
        print_features_pruned(features, features.clear())


def find_features(*, required: bool) -> FeatureCache | None:
    """The cache of encoder features; None where the environment turns it off.

    Raises:
        SelectionError: it is turned off and `required`.
    """
    from oblong.speech.features.cache import open_feature_cache
    from oblong.speech.features.shards import PLACE_VARIABLE

    cache = open_feature_cache()
    if cache is None and required:
        raise SelectionError(f"the cache is turned off by ${PLACE_VARIABLE}=off: unset it, or set it to a directory")
    return cache


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


def print_features_pruned(cache: FeatureCache, bytes_freed: int) -> None:
    """One line."""
    left = cache.measure_usage().num_clips
    stdout().print(f"removed {format_bytes(bytes_freed)} of features; {left} recordings are left")


def print_spectra(store: SpectrumStore) -> None:
    """How full the cache of findings is."""
    usage = store.measure_usage()
    console = stdout()
    console.print(f"where    {store.directory}", markup=False, soft_wrap=True)
    console.print(f"entries  {usage.num_entries} matrices")
    console.print(f"size     {format_bytes(usage.num_bytes)}")
    if usage.oldest is not None:
        console.print(f"oldest   {datetime.fromtimestamp(usage.oldest, UTC):%Y-%m-%d}")
    if usage.num_invalid:
        console.print(f"damaged  {usage.num_invalid} lines, which are ignored; `oblong cache prune` removes them")


def print_features(cache: FeatureCache) -> None:
    """How full the cache of encoder features is."""
    usage = cache.measure_usage()
    console = stdout()
    console.print(f"where    {cache.folder}", markup=False, soft_wrap=True)
    hours = usage.audio_seconds / SECONDS_PER_HOUR
    encoders = "encoder" if usage.num_encoders == 1 else "encoders"
    console.print(f"entries  {usage.num_clips} recordings, {hours:.2f} h, by {usage.num_encoders} {encoders}")
    console.print(f"size     {format_bytes(usage.num_bytes)}")
    if usage.num_damaged:
        console.print(f"damaged  {usage.num_damaged} lines, which are ignored")


def render_json(store: SpectrumStore | None, features: FeatureCache | None) -> str:
    """The same as a JSON object; `oldest` in seconds since 1970, null when there is no entry."""
    from dataclasses import asdict

    shown: dict[str, Any] = {}
    if store is not None:
        shown |= {"directory": str(store.directory), **asdict(store.measure_usage())}
    if features is not None:
        shown["features"] = {"directory": str(features.folder), **asdict(features.measure_usage())}
    return json.dumps(shown, ensure_ascii=False, indent=1)
