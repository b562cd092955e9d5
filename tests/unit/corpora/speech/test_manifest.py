"""Manifests: strict reading with line and field, and reading back what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oblong.corpora.speech import Utterance, read_manifest, write_manifest
from oblong.errors import DataError, OutputExistsError
from tests.sound_builders import write_lines

LINE = {"audio": "a.wav", "text": "Thank you.", "lang": "en"}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    utterances = [
        Utterance(tmp_path / "clips" / "ä.flac", "Öffnen Sie!", "de", 1.25, "anna", "here", "CC0-1.0", "test", "human"),
        Utterance(Path("/elsewhere/b.wav"), "", "nl"),
    ]
    path = tmp_path / "m.jsonl"
    write_manifest(path, utterances)
    assert read_manifest(path) == utterances
    assert '"audio": "clips/ä.flac"' in path.read_text(encoding="utf-8")


TEXTS = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), max_size=20)


@given(
    rows=st.lists(
        st.builds(
            Utterance,
            audio=st.sampled_from([Path("/x/a.wav"), Path("/x/ä/b.flac")]),
            text=TEXTS,
            lang=st.sampled_from(["en", "de", "nds"]),
            duration=st.none() | st.integers(1, 10**7).map(lambda count: count / 10**4),
            speaker=TEXTS,
            licence=TEXTS,
            kind=st.sampled_from(["", "human", "synthetic"]),
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=50, deadline=None)
def test_whatever_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Utterance]) -> None:
    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    write_manifest(path, rows)
    assert read_manifest(path) == rows


def test_relative_audio_is_relative_to_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    write_lines(tmp_path / "data" / "m.jsonl", [LINE])
    monkeypatch.chdir(tmp_path)
    assert read_manifest(Path("data/m.jsonl"))[0].audio.resolve() == tmp_path / "data" / "a.wav"


def test_a_moved_folder_still_works(tmp_path: Path) -> None:
    write_manifest(tmp_path / "one" / "m.jsonl", [Utterance(tmp_path / "one" / "a.wav", "Hi.", "en")])
    (tmp_path / "one").rename(tmp_path / "two")
    assert read_manifest(tmp_path / "two" / "m.jsonl")[0].audio == tmp_path / "two" / "a.wav"


def test_a_manifest_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", [LINE])
    with pytest.raises(OutputExistsError):
        write_manifest(path, [])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: is not valid JSON"),
        ("[1]", "line 2: holds list, not an object"),
        ('{"audio": "a", "audio": "b", "text": "", "lang": "en"}', "line 2: is not valid JSON: a field occurs twice"),
        ('{"audio": "a", "text": "", "lang": "en", "duration": NaN}', "NaN is not a JSON number"),
        ("[" * 100_000, "line 2: is not valid JSON"),
        ({"audio": "a.wav", "text": "x"}, "line 2: field 'lang' is missing"),
        ({**LINE, "audio_filepath": "a"}, r"line 2: unknown field 'audio_filepath' \(it is called 'audio' here\)"),
        ({**LINE, "speeker": "a"}, "line 2: unknown field 'speeker'; known are audio, text, lang, duration"),
        ({**LINE, "audio": ""}, "line 2: field 'audio' names no file"),
        ({**LINE, "audio": "a\0b"}, "line 2: field 'audio' names no file"),
        ({**LINE, "text": None}, "line 2: field 'text' holds NoneType, not a string"),
        ({**LINE, "lang": "de-DE"}, r"line 2: field 'lang' is 'de-DE', not a language code .* \(write 'de'\)"),
        ({**LINE, "lang": "German"}, "line 2: field 'lang' is 'German'"),
        ({**LINE, "duration": 0}, "line 2: field 'duration' is 0; it must be more than 0 seconds"),
        ({**LINE, "duration": "3"}, "line 2: field 'duration' holds str, not seconds"),
        ({**LINE, "duration": True}, "line 2: field 'duration' holds bool"),
        (
            '{"audio": "a", "text": "", "lang": "en", "duration": 1' + "0" * 400 + "}",
            "it must be more than 0 seconds, and",
        ),
        (
            '{"audio": "a", "text": "\\ud83d.", "lang": "en"}',
            r"line 2: field 'text' holds \\ud83d, half of a character",
        ),
        ('{"audio": "\\udc00.wav", "text": "", "lang": "en"}', r"line 2: field 'audio' holds \\udc00"),
        ({**LINE, "kind": "robot"}, "line 2: field 'kind' is 'robot'; it is one of human, synthetic"),
    ],
)
def test_a_mistake_is_refused_with_line_and_field(tmp_path: Path, row: Any, message: str) -> None:
    path = write_lines(tmp_path / "m.jsonl", [LINE, row])
    with pytest.raises(DataError, match=message):
        read_manifest(path)


def test_the_manifest_of_another_language_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", [{**LINE, "lang": "de"}, LINE, LINE])
    with pytest.raises(DataError, match="2 of 3 utterances are not 'de', the first on line 2: field 'lang' is 'en'"):
        read_manifest(path, lang="de")
    assert len(read_manifest(path)) == 3


@pytest.mark.parametrize(("content", "message"), [(b"\n\n", "is empty"), (b"\xff\xfe{", "is not UTF-8 text")])
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_manifest(path)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such manifest"):
        read_manifest(tmp_path / "nowhere.jsonl")


def test_texts_of_another_language_than_claimed_are_refused(tmp_path: Path) -> None:
    english = {"audio": "a.wav", "text": "The door of the house is open and you are not in it.", "lang": "de"}
    path = write_lines(tmp_path / "m.jsonl", [english] * 10)
    with pytest.raises(DataError, match="calls 'de' read like 'en'"):
        read_manifest(path)
    assert len(read_manifest(write_lines(tmp_path / "few.jsonl", [english] * 2))) == 2
    assert len(read_manifest(write_lines(tmp_path / "unknown.jsonl", [{**english, "lang": "sw"}] * 10))) == 10


def test_white_space_in_a_transcript_is_single_spaces(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", [{**LINE, "text": " two\n lines  "}])
    assert read_manifest(path)[0].text == "two lines"
