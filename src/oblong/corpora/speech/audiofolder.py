"""The audiofolder of Hugging Face: sound files beside a `metadata.csv` or `metadata.jsonl` with their transcripts."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from oblong.corpora.speech.rows import Columns, describe_row
from oblong.corpora.speech.utterance import Utterance
from oblong.errors import DataError

METADATA: Final = ("metadata.csv", "metadata.jsonl")
FILE_NAME: Final = "file_name"


def find_metadata(path: Path) -> Path | None:
    """The metadata file of an audiofolder, given the folder or the file itself."""
    if path.name in METADATA and path.is_file():
        return path
    return next((path / name for name in METADATA if (path / name).is_file()), None)


def read_audiofolder(metadata: Path, columns: Columns, *, lang: str | None) -> list[Utterance]:
    """Read an audiofolder.

    Args:
        metadata: the metadata file.
        columns: what the column of the transcript is called.
        lang: where no column says it.

    Raises:
        DataError: unreadable, no `file_name`, no transcript, no language or no rows; the message names the row.
    """
    utterances = []
    for number, row in _iter_rows(metadata):
        place = f"{metadata} line {number}"
        name = row.get(FILE_NAME)
        if not isinstance(name, str) or not name:
            raise DataError(f"{place}: column {FILE_NAME!r} is missing or empty; it has {', '.join(map(str, row))}")
        utterances.append(describe_row(row, metadata.parent / name, columns, lang=lang, place=place))
    if not utterances:
        raise DataError(f"{metadata}: lists no files")
    return utterances


def _iter_rows(metadata: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with metadata.open(encoding="utf-8-sig", newline="") as file:
            yield from _iter_csv(file, metadata) if metadata.suffix == ".csv" else _iter_jsonl(file, metadata)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{metadata}: cannot be read: {error}") from error


def _iter_csv(file: Any, metadata: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(file, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{metadata} line {reader.line_num}: has another number of columns than the first line")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{metadata} line {reader.line_num}: is not valid CSV: {error}") from error


def _iter_jsonl(file: Any, metadata: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{metadata} line {number}: is not valid JSON: {error}") from error
        if not isinstance(row, Mapping):
            raise DataError(f"{metadata} line {number}: holds {type(row).__name__}, not an object")
        yield number, row
