"""Documents: the unit of text everywhere. One document is one string; resampling and packing never cut across two.

text file (.txt .md ...)     one document per file; `---` is not special
folder of text files         one document per file, in name order
.jsonl .json                 one document per object, in its `text` field
.csv .parquet                one document per row, through `datasets`
Hub dataset                  `name` or `name:config`, through `datasets`; its offline cache is honoured
bundled:NAME                 a text that ships with oblong
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from oblong.corpora.bundled import BUNDLED_PREFIX, locate_bundled
from oblong.errors import DataError
from oblong.records import DataSource

TEXT_SUFFIXES: Final = (".txt", ".md", ".rst", ".text")
TABLE_BUILDERS: Final[Mapping[str, str]] = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Texts in order, with their identity.

    Attributes:
        name: short name for tables.
        source: what `read_documents` was asked for.
        texts: the documents; none is blank.
    """

    name: str
    source: str
    texts: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return sum(len(text.encode()) for text in self.texts)

    @property
    def digest(self) -> str:
        """SHA-256 over the texts in order, each preceded by its length."""
        state = hashlib.sha256()
        for text in self.texts:
            data = text.encode()
            state.update(len(data).to_bytes(8, "little"))
            state.update(data)
        return f"sha256:{state.hexdigest()}"

    def describe(self) -> DataSource:
        """The record of this text."""
        return DataSource(
            name=self.name,
            source=self.source,
            digest=self.digest,
            num_documents=len(self.texts),
            num_bytes=self.num_bytes,
        )


def read_documents(
    source: str,
    *,
    text_field: str = "text",
    split: str = "train",
    skip: int = 0,
    limit: int | None = None,
    name: str | None = None,
) -> Documents:
    """Read documents from a file, a folder, a Hub dataset or `bundled:NAME`.

    Args:
        source: path, Hub id (`owner/dataset` or `owner/dataset:config`) or `bundled:NAME`.
        text_field: field or column that holds the text, for JSON, CSV, Parquet and Hub datasets.
        split: split of a Hub dataset.
        skip: leave the first so many documents out.
        limit: keep the first so many documents of the others.
        name: short name for tables; default: from the source.

    Raises:
        DataError: nothing under this name, no such field, no text in it, or unreadable; the message says which.
    """
    written = (text for text in _open_source(source, text_field, split) if text.strip())
    texts = list(islice(written, skip, None if limit is None else skip + limit))
    if not texts:
        raise DataError(f"{source}: contains no text" + (f" after the first {skip} documents" if skip else ""))
    return Documents(name=name or _default_name(source), source=source, texts=tuple(texts))


def _default_name(source: str) -> str:
    if source.startswith(BUNDLED_PREFIX):
        return source.removeprefix(BUNDLED_PREFIX)
    return Path(source).stem or source


def _open_source(source: str, text_field: str, split: str) -> Iterator[str]:
    if source.startswith(BUNDLED_PREFIX):
        return _iter_json(locate_bundled(source.removeprefix(BUNDLED_PREFIX)), text_field)
    path = Path(source).expanduser()
    if path.is_dir():
        return _iter_folder(path, text_field)
    if path.is_file():
        return _iter_file(path, text_field)
    if _looks_like_path(source):
        raise DataError(f"{source}: no such file or folder")
    return _iter_hub(source, text_field, split)


def _looks_like_path(source: str) -> bool:
    known = (*TEXT_SUFFIXES, *TABLE_BUILDERS, ".json", ".jsonl")
    return source.startswith((".", "/", "~")) or source.endswith(known) or source.count("/") > 1


def _iter_folder(path: Path, text_field: str) -> Iterator[str]:
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in _READERS)
    if not files:
        raise DataError(f"{path}: the folder holds no {', '.join(_READERS)} file")
    for file in files:
        yield from _iter_file(file, text_field)


def _iter_file(path: Path, text_field: str) -> Iterator[str]:
    return _READERS.get(path.suffix.lower(), _iter_text)(path, text_field)


def _iter_text(path: Path, text_field: str) -> Iterator[str]:
    yield _read_text(path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start}); convert it, or name its format") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _iter_json(path: Path, text_field: str) -> Iterator[str]:
    """JSON Lines, or one JSON array of objects."""
    content = _read_text(path)
    if content.lstrip().startswith("["):
        try:
            rows = json.loads(content)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: is not valid JSON: {error}") from error
        yield from (_pick(row, text_field, f"{path} item {number}") for number, row in enumerate(rows, 1))
        return
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path} line {number}: is not valid JSON: {error}") from error
            yield _pick(row, text_field, f"{path} line {number}")


def _pick(row: Any, text_field: str, place: str) -> str:
    if not isinstance(row, Mapping) or text_field not in row:
        known = f"; it has {', '.join(map(str, row))}" if isinstance(row, Mapping) else ""
        raise DataError(f"{place}: has no field {text_field!r}{known}. Name the right one with --text-field")
    value = row[text_field]
    if not isinstance(value, str):
        raise DataError(f"{place}: field {text_field!r} holds {type(value).__name__}, not text")
    return value


def _iter_table(path: Path, text_field: str) -> Iterator[str]:
    options = {"delimiter": "\t"} if path.suffix.lower() == ".tsv" else {}
    rows = _load_dataset(str(path), TABLE_BUILDERS[path.suffix.lower()], data_files=str(path), split="train", **options)
    return _iter_rows(rows, text_field, str(path))


def _iter_hub(source: str, text_field: str, split: str) -> Iterator[str]:
    name, _, config = source.partition(":")
    rows = _load_dataset(source, name, config or None, split=split)
    return _iter_rows(rows, text_field, source)


def _iter_rows(rows: Iterable[Any], text_field: str, place: str) -> Iterator[str]:
    return (_pick(row, text_field, f"{place} row {number}") for number, row in enumerate(rows, 1))


def _load_dataset(source: str, *arguments: Any, **options: Any) -> Iterable[Any]:
    """`datasets.load_dataset`, its many exceptions turned into one that names the source."""
    import datasets  # slow to import and needed for tables and Hub datasets only

    datasets.disable_progress_bars()
    try:
        rows: Iterable[Any] = datasets.load_dataset(*arguments, **options)
    except Exception as error:  # the library raises a dozen types, pyarrow's and the network's among them
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        hint = "" if Path(source).exists() else "; it is no local file, and as a Hub dataset it could not be loaded"
        raise DataError(f"{source}: cannot be read as a dataset{hint}: {reason}") from error
    return rows


_READERS: Final[Mapping[str, Callable[[Path, str], Iterator[str]]]] = {
    **dict.fromkeys(TEXT_SUFFIXES, _iter_text),
    **dict.fromkeys((".jsonl", ".json"), _iter_json),
    **dict.fromkeys(TABLE_BUILDERS, _iter_table),
}
