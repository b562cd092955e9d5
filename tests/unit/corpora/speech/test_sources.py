"""Utterances from audiofolders and Hugging Face datasets, with the sound left undecoded."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from oblong.corpora.speech import Columns, SpeechSource, load_audio, read_speech
from oblong.errors import DataError
from tests.sound_builders import encode_sound, make_tone, write_lines, write_sound


@pytest.fixture
def dataset(tmp_path: Path) -> datasets.Dataset:
    """Two rows with embedded FLAC and Ogg."""
    rows = {
        "audio": [
            {"bytes": encode_sound(tmp_path, "a.flac"), "path": "a.flac"},
            {"bytes": encode_sound(tmp_path, "b.ogg"), "path": None},
        ],
        "sentence": ["Guten Tag.", None],
        "speaker_id": [7, 8],
    }
    return datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio())


@pytest.mark.parametrize("form", ["saved", "saved with splits", "parquet", "folder of parquet"])
def test_a_hugging_face_dataset_is_read_and_its_sound_extracted(
    tmp_path: Path, dataset: datasets.Dataset, form: str
) -> None:
    path = tmp_path / "data"
    if form == "saved":
        dataset.save_to_disk(str(path))
    elif form == "saved with splits":
        datasets.DatasetDict({"train": dataset.select([0]), "test": dataset}).save_to_disk(str(path))
    else:
        path.mkdir()
        dataset.to_parquet(str(path / "test-00000-of-00001.parquet"))
        path = path / "test-00000-of-00001.parquet" if form == "parquet" else path
    source = SpeechSource(path=path, lang="de", split="test", extract_to=tmp_path / "sounds")
    utterances = read_speech(source)
    assert [utterance.text for utterance in utterances] == ["Guten Tag.", ""]
    assert [utterance.speaker for utterance in utterances] == ["7", "8"]
    assert [utterance.audio.name for utterance in utterances] == ["0000000.flac", "0000001.ogg"]
    assert [load_audio(utterance.audio).size for utterance in utterances] == [8000, 8000]
    stamps = [utterance.audio.stat().st_mtime_ns for utterance in utterances]
    assert [utterance.audio.stat().st_mtime_ns for utterance in read_speech(source)] == stamps


def test_what_a_dataset_does_not_say_must_be_said(tmp_path: Path, dataset: datasets.Dataset) -> None:
    path = tmp_path / "a.parquet"
    dataset.to_parquet(str(path))
    with pytest.raises(DataError, match="row 0: the sound is embedded in the dataset"):
        read_speech(SpeechSource(path=path, lang="de"))
    with pytest.raises(DataError, match="row 0: no column says the language"):
        read_speech(SpeechSource(path=path, extract_to=tmp_path / "sounds"))
    with pytest.raises(DataError, match="no column 'text' for the transcript; it has audio, sentence, speaker_id"):
        read_speech(SpeechSource(path=path, lang="de", extract_to=tmp_path / "x", columns=Columns(text="text")))
    with pytest.raises(DataError, match="no column 'speech' for the sound"):
        read_speech(SpeechSource(path=path, lang="de", extract_to=tmp_path / "x", columns=Columns(audio="speech")))


def test_an_unknown_split_is_refused(tmp_path: Path, dataset: datasets.Dataset) -> None:
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(str(tmp_path / "data"))
    for split, message in ((None, "has the splits train, test; name one"), ("dev", "there is no 'dev'")):
        with pytest.raises(DataError, match=message):
            read_speech(SpeechSource(path=tmp_path / "data", lang="de", split=split))


@pytest.mark.parametrize("metadata", ["metadata.csv", "metadata.jsonl"])
def test_an_audiofolder_is_read(tmp_path: Path, metadata: str) -> None:
    write_sound(tmp_path / "clips" / "a.wav", make_tone(0.1))
    rows = ["file_name,transcription,language", 'clips/a.wav,"Yes, please.",en', "clips/b.wav,,en"]
    objects = [
        {"file_name": "clips/a.wav", "text": "Yes, please.", "lang": "en"},
        {"file_name": "clips/b.wav", "text": "", "lang": "en"},
    ]
    write_lines(tmp_path / metadata, rows if metadata.endswith("csv") else objects)
    for path in (tmp_path, tmp_path / metadata) if metadata.endswith("csv") else (tmp_path,):
        utterances = read_speech(SpeechSource(path=path))
        assert [(item.text, item.lang) for item in utterances] == [("Yes, please.", "en"), ("", "en")]
        assert utterances[0].audio == tmp_path / "clips" / "a.wav"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["file_name,text", "a.wav"], "line 2: has another number of columns"),
        (["file_name,text", "a.wav,x,y"], "line 2: has another number of columns"),
        (["name,text", "a.wav,x"], "line 2: column 'file_name' is missing or empty; it has name, text"),
        (["file_name,words", "a.wav,x"], "no column 'text' or 'transcription' or 'sentence' or 'transcript'"),
        (["file_name,text", "a.wav,x"], "line 2: no column says the language"),
        (["file_name,text"], "lists no files"),
    ],
)
def test_a_wrong_audiofolder_is_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    write_lines(tmp_path / "metadata.csv", rows)
    with pytest.raises(DataError, match=message):
        read_speech(SpeechSource(path=tmp_path))


def test_what_is_no_speech_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    for path, message in (
        (tmp_path / "nowhere", "no such file or folder"),
        (tmp_path, "cannot be read as Parquet"),
        (Path(__file__), "holds no speech in a known form"),
    ):
        with pytest.raises(DataError, match=message):
            read_speech(SpeechSource(path=path, lang="en"))


def test_a_manifest_of_another_language_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", [{"audio": "a.wav", "text": "Hi.", "lang": "en"}])
    with pytest.raises(DataError, match="not 'de'"):
        read_speech(SpeechSource(path=path, lang="de"))
