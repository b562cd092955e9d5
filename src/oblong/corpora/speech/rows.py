"""Rows of a dataset to utterances: which column is what, and sound that is embedded written to files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from oblong.corpora.speech.manifest import make_utterance
from oblong.corpora.speech.utterance import Utterance
from oblong.errors import DataError
from oblong.records.base import replace_bytes_on_success

TEXT_COLUMNS: Final = ("text", "transcription", "sentence", "transcript")
LANG_COLUMNS: Final = ("lang", "language", "locale")
SPEAKER_COLUMNS: Final = ("speaker", "speaker_id", "client_id")
SUFFIX_BY_MAGIC: Final[Mapping[bytes, str]] = {
    b"RIFF": ".wav",
    b"fLaC": ".flac",
    b"OggS": ".ogg",
    b"ID3": ".mp3",
    b"\xff\xfb": ".mp3",
    b"\xff\xf3": ".mp3",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the columns are called; None looks for the usual names."""

    audio: str = "audio"
    text: str | None = None


def read_rows(
    rows: Iterable[Mapping[str, Any]], path: Path, columns: Columns, *, lang: str | None, extract_to: Path | None
) -> list[Utterance]:
    """Turn the rows of a Hugging Face dataset into utterances.

    Args:
        rows: each with an audio column of `{"bytes": ..., "path": ...}`, not decoded.
        path: of the dataset, for messages and for relative paths.
        columns: what the columns are called.
        lang: where no column says it.
        extract_to: folder for embedded sound, one file per row, named by its number.

    Raises:
        DataError: no rows, a missing column, or embedded sound and no folder to write it to.
    """
    utterances = []
    for number, row in enumerate(rows):
        place = f"{path} row {number}"
        audio = _locate_audio(_pick(row, columns.audio, place), path, number, place, extract_to)
        utterances.append(describe_row(row, audio, columns, lang=lang, place=place))
    if not utterances:
        raise DataError(f"{path}: the dataset has no rows")
    return utterances


def describe_row(row: Mapping[str, Any], audio: Path, columns: Columns, *, lang: str | None, place: str) -> Utterance:
    """An utterance from a row's columns and the place of its sound.

    Raises:
        DataError: no transcript or no language; the message lists the columns.
    """
    text = row[_find(row, (columns.text,) if columns.text else TEXT_COLUMNS, place, "the transcript")]
    fields = {"audio": str(audio), "text": "" if text is None else text}
    fields["lang"] = lang or _find_language(row, place)
    for name in SPEAKER_COLUMNS:
        if row.get(name) not in (None, ""):
            fields["speaker"] = str(row[name])
            break
    return make_utterance(fields, Path(), place)


def _find_language(row: Mapping[str, Any], place: str) -> Any:
    for name in LANG_COLUMNS:
        if row.get(name):
            return row[name]
    raise DataError(f"{place}: no column says the language ({', '.join(LANG_COLUMNS)}); name it, such as lang: de")


def _find(row: Mapping[str, Any], names: tuple[str, ...], place: str, what: str) -> str:
    for name in names:
        if name in row:
            return name
    raise DataError(f"{place}: no column {' or '.join(map(repr, names))} for {what}; it has {', '.join(map(str, row))}")


def _pick(row: Mapping[str, Any], name: str, place: str) -> Any:
    return row[_find(row, (name,), place, "the sound")]


def _locate_audio(value: Any, path: Path, number: int, place: str, extract_to: Path | None) -> Path:
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, Mapping) or not (value.get("bytes") or value.get("path")):
        raise DataError(f"{place}: the audio column holds {type(value).__name__} without bytes or path")
    if not value.get("bytes"):
        folder = path if path.is_dir() else path.parent
        return folder / str(value["path"])
    if extract_to is None:
        raise DataError(f"{place}: the sound is embedded in the dataset; say where to extract it to")
    return _extract(value["bytes"], value.get("path") or "", extract_to / f"{number:07d}")


def _extract(data: bytes, name: str, stem: Path) -> Path:
    magic = [suffix for start, suffix in SUFFIX_BY_MAGIC.items() if data.startswith(start)]
    target = stem.with_suffix(magic[0] if magic else Path(name).suffix or ".audio")
    if not (target.is_file() and target.read_bytes() == data):
        with replace_bytes_on_success(target, force=True) as file:
            file.write(data)
    return target.absolute()
