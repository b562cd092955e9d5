"""Building speech sets into a folder: whole or not at all, and nothing twice.

FOLDER/NAME-train.jsonl, NAME-test.jsonl    the manifests
FOLDER/clips/NAME/...flac                   the clips, 16 kHz mono
FOLDER/NAME.built.json                      what a set was made from; it is made anew when that changes
FOLDER/LICENCES, FOLDER/licences/           under which licences
FOLDER/packages, FOLDER/engines             what was downloaded; may be deleted afterwards
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from oblong.corpora.speech.building.catalogue import SETS, SpeechSet
from oblong.corpora.speech.building.context import BuildContext
from oblong.corpora.speech.building.engines import Engine, open_engine
from oblong.corpora.speech.building.licences import (
    copy_copyrights,
    copy_unpacked_copyrights,
    copy_wheel_licence,
    write_licences,
)
from oblong.corpora.speech.building.packages import Package, PackageStore, Report
from oblong.corpora.speech.building.splits import TEST, TRAIN
from oblong.corpora.speech.building.voices import ENGINES, PICO
from oblong.corpora.speech.manifest import read_manifest, write_manifest
from oblong.corpora.speech.usable import SkipReport
from oblong.corpora.speech.utterance import SYNTHETIC, Utterance
from oblong.errors import DataError, SelectionError
from oblong.records.base import explain_write_errors, replace_on_success

VERSION: Final = 1  # of how sets are made; a change makes them anew
DEFAULT_HOURS: Final = 4.0
QUICK_HOURS: Final = 0.3
NUM_SYNTHETIC_LANGUAGES: Final = 2
TEST_SHARE: Final = 0.1
TEST_SECONDS: Final = (90.0, 600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to build, and how much of it.

    Attributes:
        folder: where the sets go.
        names: of the sets.
        hours: of synthetic speech for training, both languages together.
        quick: take sentences from small packages only.
        engines: speech synthesisers to use.
        given_packages: the user's own folder of `.deb` files; nothing is downloaded then.
        seed: of every choice.
        force: build anew although it is there.
    """

    folder: Path
    names: tuple[str, ...]
    hours: float = DEFAULT_HOURS
    quick: bool = False
    engines: tuple[str, ...] = ENGINES
    given_packages: Path | None = None
    seed: int = 0
    force: bool = False

    @property
    def train_seconds(self) -> float:
        """Of synthetic speech per language."""
        return self.hours * 3600 / NUM_SYNTHETIC_LANGUAGES

    @property
    def test_seconds(self) -> float:
        """A tenth of it, between 1.5 and 10 minutes."""
        return min(max(TEST_SHARE * self.train_seconds, TEST_SECONDS[0]), TEST_SECONDS[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltSet:
    """A set that is there: its manifests by file name, what was left out, and whether this call made it."""

    name: str
    manifests: Mapping[str, Sequence[Utterance]]
    skips: SkipReport
    is_new: bool


def build_sets(request: BuildRequest, report: Report) -> list[BuiltSet]:
    """Build sets, or find them there.

    Args:
        request: what to build.
        report: called with what is being done, how much of it is done, and the total (0 where it is not known).

    Raises:
        SelectionError: no such set or engine.
        MissingExtraError: a Python package that the request needs is not installed.
        MissingPackageError: a Debian package cannot be had on this machine.
        DownloadError: apt-get failed.
        DataError: a package is broken or holds nothing usable.
        OutputWriteError: the disk is full or not writable.
    """
    chosen = [_find_set(name) for name in request.names]
    with explain_write_errors(request.folder), _lock(request.folder):
        built = {item.name: _find_built(item, request) for item in chosen}
        missing = [item for item in chosen if built[item.name] is None]
        if missing:
            built |= _build_all(missing, request, report)
            write_licences(request.folder, _read_all_manifests(request.folder))
    return [found for found in built.values() if found is not None]


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One build in a folder at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


def _build_all(missing: Sequence[SpeechSet], request: BuildRequest, report: Report) -> dict[str, BuiltSet]:
    store = PackageStore(folder=request.folder / "packages", given=request.given_packages)
    needs_engines = any(item.kind == SYNTHETIC for item in missing)
    engines = _open_engines(request, store, report) if needs_engines else {}
    return {item.name: _build(item, request, store, engines, report) for item in missing}


def _find_set(name: str) -> SpeechSet:
    if name not in SETS:
        raise SelectionError(f"there is no speech set {name!r}: choose among {', '.join(SETS)}")
    return SETS[name]


def _open_engines(request: BuildRequest, store: PackageStore, report: Report) -> dict[str, Engine]:
    """Before anything is built: what is missing is said at once."""
    if not request.engines:
        raise SelectionError(f"synthetic speech needs an engine: choose among {', '.join(ENGINES)}")
    folder = request.folder / "engines"
    engines = {name: open_engine(name, store, folder, report) for name in dict.fromkeys(request.engines)}
    copy_unpacked_copyrights(request.folder / "licences", folder.glob("*/"))
    if PICO in engines:
        copy_wheel_licence(request.folder / "licences", "py-nanotts")
    return engines


def _build(
    item: SpeechSet, request: BuildRequest, store: PackageStore, engines: Mapping[str, Engine], report: Report
) -> BuiltSet:
    packages = store.obtain(item.list_packages(quick=request.quick), report)
    context = BuildContext(
        folder=request.folder,
        packages=packages,
        engines=engines if item.kind == SYNTHETIC else {},
        train_seconds=request.train_seconds,
        test_seconds=request.test_seconds,
        seed=request.seed,
        report=report,
    )
    utterances = item.build(context)
    if not utterances:
        raise DataError(f"{item.name}: nothing of it can be used: {context.skips.describe()}")
    copy_copyrights(request.folder / "licences", packages.values())
    return _finish(item, request, packages, utterances, context.skips)


def _describe(item: SpeechSet, request: BuildRequest) -> dict[str, Any]:
    """All that the contents of a set depend on, but the versions of its packages: an update does not make it anew."""
    described: dict[str, Any] = {"version": VERSION, "packages": sorted(item.list_packages(quick=request.quick))}
    if item.kind == SYNTHETIC:
        described |= {
            "engines": sorted(request.engines),
            "train_seconds": request.train_seconds,
            "test_seconds": request.test_seconds,
            "seed": request.seed,
        }
    return described


def _find_built(item: SpeechSet, request: BuildRequest) -> BuiltSet | None:
    """The set, if it was made from the same things and is whole."""
    if request.force:
        return None
    try:
        content = json.loads(_get_marker(item, request).read_text(encoding="utf-8"))
        if content["made_from"] != _describe(item, request):
            return None
        manifests = {name: read_manifest(request.folder / name) for name in content["manifests"]}
        skips = SkipReport()
        for kind, (count, message) in content["skipped"].items():
            skips.counts[kind], skips.examples[kind] = count, [message]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):  # no marker, or a damaged one
        return None
    is_whole = {name: len(rows) for name, rows in manifests.items()} == content["manifests"] and all(
        utterance.audio.is_file() for rows in manifests.values() for utterance in rows
    )
    return BuiltSet(name=item.name, manifests=manifests, skips=skips, is_new=False) if is_whole else None


def _get_marker(item: SpeechSet, request: BuildRequest) -> Path:
    return request.folder / f"{item.name}.built.json"


def _finish(
    item: SpeechSet,
    request: BuildRequest,
    packages: Mapping[str, Package],
    utterances: Sequence[Utterance],
    skips: SkipReport,
) -> BuiltSet:
    """Write the manifests, then the marker that says they are whole."""
    marker = _get_marker(item, request)
    marker.unlink(missing_ok=True)
    manifests: dict[str, list[Utterance]] = {}
    for split in (TRAIN, TEST):
        name = f"{item.name}-{split}.jsonl"
        (request.folder / name).unlink(missing_ok=True)
        if rows := [utterance for utterance in utterances if utterance.split == split]:
            write_manifest(request.folder / name, rows)
            manifests[name] = rows
    content = {
        "made_from": _describe(item, request),
        "versions": {name: package.version for name, package in packages.items()},
        "manifests": {name: len(rows) for name, rows in manifests.items()},
        "skipped": {kind: [count, skips.examples[kind][0]] for kind, count in skips.counts.items()},
    }
    with replace_on_success(marker, force=True) as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
    return BuiltSet(name=item.name, manifests=manifests, skips=skips, is_new=True)


def _read_all_manifests(folder: Path) -> dict[str, list[Utterance]]:
    """Also those of earlier calls."""
    names = [f"{name}-{split}.jsonl" for name in SETS for split in (TRAIN, TEST)]
    return {name: read_manifest(folder / name) for name in names if (folder / name).is_file()}
