"""Records: read(write(x)) == x, nothing half-written, nothing overwritten, nothing non-finite."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import AfterValidator, ValidationError

from oblong.errors import OutputExistsError, OutputWriteError, RecordError
from oblong.records import Provenance, Record
from oblong.records.base import check_kind, replace_on_success


class Note(Record):
    """A small record."""

    kind: Annotated[str, AfterValidator(check_kind("test.note"))] = "test.note"
    text: str
    value: float | None = None


@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    note = Note(text="ß: 漢 \n- x", value=0.1 + 0.2)
    note.write(tmp_path / name)
    assert Note.read(tmp_path / name) == note


def test_a_non_finite_number_never_enters_a_record() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Note(text="", value=float("nan"))


def test_existing_output_is_kept_without_force(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("precious")
    with pytest.raises(OutputExistsError, match=r"a\.json exists already.*--force"):
        Note(text="new").write(path)
    assert path.read_text() == "precious"
    Note(text="new").write(path, force=True)
    assert Note.read(path).text == "new"


def test_disk_full_loses_nothing_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("precious")

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputWriteError, match=r"a\.json: the disk is full; free some space") as caught:
        Note(text="new").write(path, force=True)
    assert caught.value.exit_code == 2
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("precious")
    with pytest.raises(KeyboardInterrupt), replace_on_success(path, force=True) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid json"),
        ("[1]", "is not a valid Note"),
        ('{"kind": "oblong.plan", "text": ""}', "this file is a 'oblong.plan' record, not 'test.note'"),
        ('{"text": "", "colour": 1}', "colour: Extra inputs"),
        ("{}", "text: Field required"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(RecordError) as caught:
        Note.read(path)
    assert "bad.json" in str(caught.value)
    assert message.lower() in str(caught.value).lower()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"gone\.json: no such file"):
        Note.read(tmp_path / "gone.json")


def test_digest_depends_on_content_alone() -> None:
    assert Note(text="a").digest() == Note(text="a").digest() != Note(text="b").digest()


class LaterNote(Note):
    """The small record of a later version, with one more optional field."""

    colour: str = "red"


def test_digest_survives_a_new_optional_field() -> None:
    assert LaterNote(text="a").digest() == Note(text="a").digest()
    assert LaterNote(text="a", colour="blue").digest() != Note(text="a").digest()


def test_provenance_names_versions_but_no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/home/someone/bin/oblong", "scan", "demo"])
    provenance = Provenance.here()
    assert provenance.command == ("oblong", "scan", "demo")
    assert {"torch", "numpy", "safetensors"} <= set(provenance.packages)
    assert "/home" not in json.dumps(provenance.model_dump())
