"""Rows of Hugging Face datasets on this disk, sound not decoded: the library's own decoding needs torchcodec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from oblong.corpora.speech.rows import Columns
from oblong.errors import DataError

SAVED_MARKERS: Final = ("state.json", "dataset_dict.json")
ROWS_AT_ONCE: Final = 64  # each may hold megabytes of sound


def is_saved_dataset(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return any((path / name).is_file() for name in SAVED_MARKERS)


def iter_saved_rows(path: Path, columns: Columns, split: str | None) -> Iterator[Mapping[str, Any]]:
    """Rows of a dataset written by `save_to_disk`.

    Raises:
        DataError: not readable, several splits and none named, or none of this name.
    """
    import datasets  # slow to import

    datasets.disable_progress_bars()
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # the library raises a dozen types, pyarrow's among them
        raise DataError(f"{path}: cannot be read as a dataset: {str(error).strip().splitlines()[0]}") from error
    if hasattr(found, "keys"):
        found = _pick_split(dict(found), path, split)
    if isinstance(found.features.get(columns.audio), datasets.Audio):
        found = found.cast_column(columns.audio, datasets.Audio(decode=False))
    yield from found


def find_parquet(path: Path, split: str | None) -> list[Path]:
    """The Parquet files that `path` is or holds, in name order; of one split where it is named.

    Raises:
        DataError: there are Parquet files, but none of this split.
    """
    if path.is_file():
        return [path] if path.suffix.lower() == ".parquet" else []
    files = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    if split is None or not files:
        return files
    chosen = [file for file in files if file.name.startswith((f"{split}-", f"{split}."))]
    if not chosen:
        raise DataError(f"{path}: no Parquet file of the split {split!r}; there are {', '.join(f.name for f in files)}")
    return chosen


def iter_parquet_rows(files: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    """Rows of Parquet files.

    Raises:
        DataError: a file that cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    for file in files:
        try:
            with parquet.ParquetFile(file) as table:
                for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
                    yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file}: cannot be read as Parquet: {str(error).strip().splitlines()[0]}") from error


def _pick_split(splits: Mapping[str, Any], path: Path, split: str | None) -> Any:
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split is None or split not in splits:
        asked = "name one" if split is None else f"there is no {split!r}"
        raise DataError(f"{path}: has the splits {', '.join(splits)}; {asked}")
    return splits[split]
