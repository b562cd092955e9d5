"""`oblong speech manifest`: other forms of speech become what training and evaluation read."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from oblong.cli.main import run
from oblong.corpora.speech import load_audio, read_manifest
from tests.sound_builders import encode_sound, make_tone, write_sound


def test_an_audiofolder_becomes_a_manifest_without_what_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_sound(folder / "a.wav", make_tone(0.5))
    (folder / "b.wav").write_bytes(b"no sound")
    (folder / "metadata.csv").write_text("file_name,sentence\na.wav,Guten Tag.\nb.wav,Gute Nacht.\nc.wav,Hallo.\n")
    output = tmp_path / "speech.jsonl"
    assert run(["speech", "manifest", str(folder), "--lang", "de", "-o", str(output)]) == 0
    printed = capsys.readouterr()
    assert "1 clip," in printed.out
    assert "language de" in printed.out
    for part in ("2 skipped", "1 missing", "1 corrupt"):
        assert part in printed.err
    (utterance,) = read_manifest(output)
    assert (utterance.text, utterance.lang, utterance.audio) == ("Guten Tag.", "de", folder / "a.wav")
    assert utterance.duration == pytest.approx(load_audio(folder / "a.wav").size / 16_000)


def test_sound_inside_a_dataset_is_written_beside_the_manifest(tmp_path: Path) -> None:
    rows = {"speech": [{"bytes": encode_sound(tmp_path, "a.flac"), "path": None}], "said": ["Guten Tag."]}
    data = datasets.Dataset.from_dict(rows).cast_column("speech", datasets.Audio())
    data.save_to_disk(str(tmp_path / "data"))
    output = tmp_path / "out.jsonl"
    columns = ["--text-column", "said", "--audio-column", "speech"]
    assert run(["speech", "manifest", str(tmp_path / "data"), "--lang", "de", *columns, "-o", str(output)]) == 0
    (utterance,) = read_manifest(output)
    assert utterance.audio == tmp_path / "out.clips" / "0000000.flac"
    assert load_audio(utterance.audio).size == 8000


@pytest.mark.parametrize(
    ("source", "message"), [("missing", "no such file or folder"), ("empty", "holds no speech in a known form")]
)
def test_what_holds_no_speech_is_refused(
    tmp_path: Path, source: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run(["speech", "manifest", str(tmp_path / source), "-o", str(tmp_path / "out.jsonl")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out.jsonl").exists()


def test_an_existing_manifest_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("mine")
    assert run(["speech", "manifest", str(tmp_path), "-o", str(output)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert output.read_text() == "mine"
