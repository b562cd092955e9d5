from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from oblong.cli.main import run
from oblong.records import SpeechEvaluation
from tests.transcription_builders import make_silence, make_tone, save_tiny_whisper, write_manifest, write_sound
from tests.tuning_builders import save_tiny_llama


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whisper`, `english` and `llama`."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_whisper(folder / "whisper")
    save_tiny_whisper(folder / "english", seed=1, multilingual=False)
    save_tiny_llama(folder / "llama")
    return folder


@pytest.fixture
def folder(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    for name in ("whisper", "english", "llama"):
        Path(name).symlink_to(models / name)
    for place, seconds in enumerate((0.5, 0.8, 0.4)):
        write_sound(Path(f"clips/{place}.wav"), make_tone(seconds, hertz=300 + 100 * place))
    write_sound(Path("clips/silence.flac"), make_silence(1))
    rows = [
        {"audio": "clips/0.wav", "text": "One, two.", "lang": "en"},
        {"audio": "clips/1.wav", "text": "schöne Grüße", "lang": "de"},
        {"audio": "clips/2.wav", "text": "three", "lang": "en"},
        {"audio": "clips/silence.flac", "text": "", "lang": "en"},
    ]
    write_manifest(Path("test.jsonl"), rows)
    return tmp_path


def read_error(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_evaluate_prints_the_table_and_writes_the_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["speech", "evaluate", "whisper", "mine=test.jsonl", "--baseline", "whisper", "-o", "out.json"]) == 0
    output = capsys.readouterr().out
    evaluation = SpeechEvaluation.read(Path("out.json"))
    scored = evaluation.sets["mine"]
    assert [transcript.reference for transcript in scored.transcripts][1] == "schöne Grüße"
    assert scored.transcripts[3].hypothesis == ""
    assert [row.split()[:3] for row in output.splitlines() if row.strip().startswith("mine ")][:3] == [
        ["mine", "de", "1"],
        ["mine", "en", "3"],
        ["mine", "all", "4"],
    ]
    assert "mine: 1 window left out as silence" in output
    assert "WER against whisper: +0.0 points [0.0, 0.0]" in output
    assert "en: whisper-english (transformers" in output
    assert evaluation.baseline is not None
    assert evaluation.baseline.sets["mine"].transcripts == scored.transcripts
    assert list(Path().glob(".*.partial")) == []


def test_evaluate_goes_on_after_a_kill(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from oblong.speech import evaluating

    arguments = ["speech", "evaluate", "whisper", "test.jsonl", "-o", "out.json", "--batch-size", "1"]
    monkeypatch.setattr(evaluating, "BATCHES_PER_CHUNK", 1)
    original, calls = evaluating.transcribe_chunk, []

    def interrupt(*given: object) -> object:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluating, "transcribe_chunk", interrupt)
    assert run(arguments) == 130
    assert not Path("out.json").exists()
    assert run(arguments) == 0
    assert len(calls) == 5  # two were done, the third is done again, and the fourth
    assert len(SpeechEvaluation.read(Path("out.json")).sets["test"].transcripts) == 4


def test_evaluate_json_is_one_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["speech", "evaluate", "whisper", "test.jsonl", "--limit", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "oblong.speech_evaluation"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["whisper", "none.jsonl"], "none.jsonl"),
        (["english", "test.jsonl"], "has utterances in 'de', but this Whisper model knows English only"),
        (["llama", "test.jsonl"], "is a 'llama' model, which does not take speech"),
        (["whisper", "test.jsonl", "--prompt", "Write."], "Whisper takes no instruction"),
        (["whisper", "a=test.jsonl", "a=test.jsonl"], "the same name, 'a'"),
        (["no-model/at/all", "test.jsonl"], "no such file or directory"),
        (["whisper", "test.jsonl", "-o", "test.jsonl"], "test.jsonl exists already"),
        (["whisper", "test.jsonl", "--device", "abacus"], "unknown device 'abacus'"),
    ],
)
def test_evaluate_names_what_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["speech", "evaluate", *arguments]) == 2
    assert message in read_error(capsys)


def test_a_processor_that_is_missing_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("half").mkdir()
    for name in ("config.json", "model.safetensors"):
        (Path("half") / name).symlink_to(Path("whisper").resolve() / name)
    assert run(["speech", "transcribe", "half", "clips/0.wav"]) == 2
    assert "its processor cannot be loaded" in read_error(capsys)


def test_transcribe_one_file_prints_its_text_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["speech", "transcribe", "whisper", "clips/0.wav", "--lang", "en"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert "real-time factor" in captured.err


def test_transcribe_a_folder_names_each_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["speech", "transcribe", "whisper", "clips", "--format", "json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["audio"] for row in rows] == ["clips/0.wav", "clips/1.wav", "clips/2.wav", "clips/silence.flac"]
    assert rows[3]["text"] == ""
    assert rows[3]["segments"][0]["ending"] == "silent"


def test_a_bad_file_is_skipped_counted_and_told_by_the_exit_code(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("clips/1.wav").write_bytes(b"RIFF nonsense")
    assert run(["speech", "transcribe", "whisper", "clips", "missing.wav"]) == 1
    captured = capsys.readouterr()
    assert [line.split("\t")[0] for line in captured.out.splitlines()] == [
        "clips/0.wav",
        "clips/2.wav",
        "clips/silence.flac",
    ]
    error = " ".join(captured.err.split())
    assert "clips/1.wav: cannot be decoded" in error
    assert "missing.wav: no such file; skipped" in error
    assert "2 of 5 skipped" in error


def test_subtitles_go_beside_the_audio(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = np.concatenate([make_tone(6), make_silence(1), make_tone(5, hertz=700)])
    write_sound(Path("long.ogg"), samples)
    arguments = ["speech", "transcribe", "whisper", "long.ogg", "clips/0.wav", "--format", "srt", "--beside"]
    assert run(arguments) == 0
    assert capsys.readouterr().out == ""
    lines = Path("long.srt").read_text().splitlines()
    assert lines[0] == "1"
    assert lines[1].startswith("00:00:00,000 --> 00:00:06,0")
    assert Path("clips/0.srt").exists()
    assert run(arguments) == 2
    assert "long.srt exists already" in read_error(capsys)
    assert run([*arguments, "--force"]) == 0


def test_a_stream_is_a_file_or_raw_samples(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def feed(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    samples, rate = soundfile.read("clips/1.wav", dtype="int16")
    texts = []
    for data, options in [(Path("clips/1.wav").read_bytes(), []), (samples.tobytes(), ["--raw-rate", str(rate)])]:
        feed(data)
        assert run(["speech", "transcribe", "whisper", "-", "--lang", "de", *options]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    feed(b"")
    assert run(["speech", "transcribe", "whisper", "-"]) == 2
    assert "standard input is empty" in read_error(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["whisper", "clips", "--format", "srt"], "subtitles of 4 files need a file each"),
        (["whisper", "clips", "--beside", "-o", "texts"], "exclude each other"),
        (["whisper", "clips", "clips/0.wav", "-o", "texts"], "would be written to texts/0.txt"),
        (["whisper", "clips/0.wav", "--lang", "fr"], "Whisper knows no language 'fr': its codes are de, en"),
        (["english", "clips/0.wav", "--lang", "de"], "knows English only"),
        (["whisper", "clips/0.wav", "--raw-rate", "16000"], "--raw-rate is about it only"),
        (["whisper", "llama"], "llama: holds no audio file"),
        (["whisper", "-", "--beside"], "nothing beside a stream"),
    ],
)
def test_transcribe_names_what_is_wrong(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"something")))
    assert run(["speech", "transcribe", *arguments]) == 2
    assert message in read_error(capsys)
