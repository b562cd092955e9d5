"""Utterances from wherever they are.

manifest.jsonl                one utterance per line; see `oblong.corpora.speech.manifest`
folder with metadata.csv      an audiofolder of Hugging Face: `file_name` and a transcript per row; or metadata.jsonl
folder of save_to_disk        a Hugging Face dataset with an `Audio` column
.parquet, folder of .parquet  the same, as the Hub keeps it
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from oblong.corpora.speech.audiofolder import find_metadata, read_audiofolder
from oblong.corpora.speech.hf_rows import find_parquet, is_saved_dataset, iter_parquet_rows, iter_saved_rows
from oblong.corpora.speech.language import check_language
from oblong.corpora.speech.manifest import read_manifest
from oblong.corpora.speech.rows import Columns, read_rows
from oblong.corpora.speech.utterance import Utterance
from oblong.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSource:
    """Where utterances are, and how to read them.

    Attributes:
        path: a manifest, folder or Parquet file.
        lang: of the utterances, where the rows do not say; in a manifest any other language is refused.
        columns: what the columns of a dataset are called.
        split: of a Hugging Face dataset that has several.
        extract_to: folder for sound files that are embedded in a dataset.
    """

    path: Path
    lang: str | None = None
    columns: Columns = field(default_factory=Columns)
    split: str | None = None
    extract_to: Path | None = None


def read_speech(source: SpeechSource) -> list[Utterance]:
    """Read utterances from a manifest, an audiofolder or a Hugging Face dataset on this disk.

    Raises:
        DataError: nothing there, not one of these, or a row that is wrong; the message names the place.
    """
    path = source.path
    if path.suffix.lower() in (".jsonl", ".json") and not path.is_dir():
        return read_manifest(path, lang=source.lang)
    if (metadata := find_metadata(path)) is not None:
        utterances = read_audiofolder(metadata, source.columns, lang=source.lang)
    elif is_saved_dataset(path):
        rows = iter_saved_rows(path, source.columns, source.split)
        utterances = read_rows(rows, path, source.columns, lang=source.lang, extract_to=source.extract_to)
    elif files := find_parquet(path, source.split):
        rows = iter_parquet_rows(files)
        utterances = read_rows(rows, path, source.columns, lang=source.lang, extract_to=source.extract_to)
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder")
    else:
        raise DataError(
            f"{path}: holds no speech in a known form: give a manifest (.jsonl), an audiofolder with metadata.csv, "
            "a dataset written by save_to_disk, or Parquet files"
        )
    check_language(utterances, str(path))
    return utterances
