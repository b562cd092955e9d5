"""An evaluation on the disk while it runs, so that a killed one goes on where it stopped.

The first line says which evaluation it is; every further line is a chunk of utterances, appended when it is done. A
line that was cut off by the kill is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from oblong.errors import RecordError
from oblong.records import Part, SkippedAudio, Transcript
from oblong.records.base import explain_write_errors

JOURNAL_KIND: Final = "oblong.speech_evaluation.journal"


class Chunk(Part):
    """Utterances of one set, in the order of the manifest."""

    set: str
    transcripts: tuple[Transcript, ...]
    skipped: tuple[SkippedAudio, ...]
    decoding_seconds: float

    @property
    def num_utterances(self) -> int:
        """Transcribed or skipped."""
        return len(self.transcripts) + len(self.skipped)


class Journal:
    """Chunks that are done; kept in memory only where there is no path."""

    def __init__(self, path: Path | None, key: str) -> None:
        """Begin, or go on with what lies at `path`.

        Raises:
            RecordError: what lies there is another evaluation, or no journal.
        """
        self._path = path
        self._chunks: list[Chunk] = []
        if path is not None and path.exists():
            self._chunks = _read(path, key)
        self._rewrite(key)

    def chunks_of(self, name: str) -> Sequence[Chunk]:
        """What is done of one set, in order."""
        return [chunk for chunk in self._chunks if chunk.set == name]

    def append(self, chunk: Chunk) -> None:
        """Keep a chunk."""
        self._chunks.append(chunk)
        if self._path is not None:
            with explain_write_errors(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(chunk.model_dump_json() + "\n")

    def _rewrite(self, key: str) -> None:
        """Header and whole lines only, so that what is appended starts on a line of its own."""
        if self._path is None:
            return
        lines = [json.dumps({"kind": JOURNAL_KIND, "key": key}), *(chunk.model_dump_json() for chunk in self._chunks)]
        with explain_write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read(path: Path, key: str) -> list[Chunk]:
    header, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        found = json.loads(header)
        is_ours = isinstance(found, dict) and found.get("kind") == JOURNAL_KIND
    except json.JSONDecodeError:
        is_ours = False
    if not is_ours:
        raise RecordError(path, "is in the way: it is no unfinished evaluation; move it, or pass --force to replace it")
    if found.get("key") != key:
        reason = "is an unfinished evaluation of another model, manifest or setting"
        raise RecordError(path, f"{reason}: finish that one, choose another output, or pass --force to drop it")
    return [_read_chunk(line, path, number) for number, line in enumerate(lines[:-1], 2)]


def _read_chunk(line: str, path: Path, number: int) -> Chunk:
    try:
        return Chunk.model_validate_json(line)
    except ValidationError as error:
        raise RecordError(path, f"line {number} is damaged: pass --force to begin anew") from error
