"""What goes wrong with sound, manifests and models, from the command line: an exit code and a sentence."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from oblong.cli.main import run as run_cli
from oblong.records import Ending, SpeechEvaluation, SpeechRun
from oblong.speech.arms import merge_speech_delta
from oblong.speech.sources import Samples
from oblong.speech.training import SpeechProgress, train_speech
from tests.speech_builders import make_tone as make_notes
from tests.speech_builders import save_tiny_whisper as save_whisper_of_a_second
from tests.training_builders import WORDS, make_data, make_recipe
from tests.transcription_builders import make_silence, make_tone, save_tiny_whisper, write_manifest, write_sound

GERMAN = "Die Tür ist nicht offen, und der Schlüssel ist nicht auf dem Tisch, den wir mit der Lampe haben."
SHORT: dict[str, Any] = {
    "align": {"max_steps": 1, "gate": None},
    "adapt": {"arm": {"adaptor_only": True}, "steps": 2},
    "evaluate_every": 2,
    "save_every": 1,
}


class Kill(BaseException):
    """As if the process had been killed."""


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that breaks no path."""
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, good speech, and a Whisper that hears 30 s."""
    folder = make_data(tmp_path_factory.mktemp("speech"))
    save_tiny_whisper(folder / "listener")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """A finished run."""
    train_speech(make_recipe(folder, **SHORT, output=str(folder / "trained")))
    return folder / "trained"


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of the good manifest."""
    return [json.loads(line) for line in (folder / "speech.jsonl").read_text(encoding="utf-8").splitlines()]


def write_stereo(path: Path, left: Samples, right: Samples) -> Path:
    """Two channels at 48 kHz, of samples at 16 kHz."""
    soundfile.write(path, np.repeat(np.stack([left, right], axis=1), 3, axis=0), 48_000)
    return path


def train(folder: Path, *options: str, **changes: Any) -> int:
    """The command on a recipe; returns the exit code."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(make_recipe(folder, **{**SHORT, **changes}).to_yaml(), encoding="utf-8")
    return run_cli(["speech", "train", str(recipe), *options])


def read_error(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_training_uses_what_it_can_and_says_what_it_cannot(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_stereo(folder / "stereo.wav", make_notes(1), make_notes(2))
    bad = {
        "silence.wav": "is silent but has a transcript",
        "short.wav": "lasts only 0.05 s",
        "long.wav": "lasts 31.0 s, more than 1 s",
        "corrupt.wav": "cannot be decoded",
        "nothing-said.wav": "has an empty transcript",
        "gone.wav": "no such file",
    }
    write_sound(folder / "silence.wav", make_silence(0.5))
    write_sound(folder / "short.wav", make_tone(0.05))
    write_sound(folder / "long.wav", make_tone(31))
    (folder / "corrupt.wav").write_bytes(b"RIFF nonsense")
    write_sound(folder / "nothing-said.wav", make_tone(0.5))
    rows = [
        {"audio": name, "text": "" if name == "nothing-said.wav" else "ab", "lang": "en"}
        for name in ("stereo.wav", *bad)
    ]
    manifest = write_manifest(folder / "bad.jsonl", [*read_rows(folder), *rows])
    data = {"train": str(manifest), "evaluate": {"bad": str(manifest)}}
    assert train(folder, "-o", str(folder / "bad"), data=data) == 0
    assert f"{2 * len(bad)} recordings were skipped, the first: " in capsys.readouterr().out
    run = SpeechRun.read(folder / "bad" / "run.json")
    for heard in (run.train[0], run.evaluate["bad"]):
        assert heard.num_utterances == len(WORDS) + 1
        assert {Path(item.audio).name: item.reason.partition(":")[0] for item in heard.skipped} == bad


def test_a_recording_that_is_gone_when_a_run_goes_on_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = folder / "moving"
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.partial", "trained", "moving"))

    def stop(progress: SpeechProgress) -> None:
        if (progress.activity, progress.done) == ("training", 1):
            raise Kill

    recipe = make_recipe(place, **SHORT, output=str(place / "halfway"))
    with pytest.raises(Kill):
        train_speech(recipe, on_progress=stop)
    (place / "3.wav").rename(place / "elsewhere.wav")
    assert train(place, "-o", str(place / "halfway")) == 2
    error = read_error(capsys)
    assert "8 could be used then, 7 can now; skipped now: " in error
    assert "3.wav: no such file" in error
    assert "--fresh" in error
    shutil.copy(place / "4.wav", place / "3.wav")
    assert train(place, "-o", str(place / "halfway")) == 2
    assert "8 could be used then, 8 can now" in read_error(capsys)
    shutil.copy(place / "elsewhere.wav", place / "3.wav")
    assert train(place, "-o", str(place / "halfway")) == 0
    assert SpeechRun.read(place / "halfway" / "run.json").train[0].num_utterances == len(WORDS)


def test_another_text_to_watch_is_another_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(progress: SpeechProgress) -> None:
        if progress.activity == "training":
            raise Kill

    text = folder / "watched.txt"
    text.write_text("It is a truth universally acknowledged.", encoding="utf-8")
    changes: dict[str, Any] = {"retention": {"prose": str(text)}, "output": str(folder / "watching")}
    with pytest.raises(Kill):
        train_speech(make_recipe(folder, **SHORT, **changes), on_progress=stop)
    text.write_text("Call me Ishmael.", encoding="utf-8")
    assert train(folder, **changes) == 2
    assert "the content of retention.prose changed" in read_error(capsys)


@pytest.mark.parametrize("name", ["state.json", "trained.safetensors", "optimizer.pt"])
def test_a_damaged_checkpoint_is_named(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    def stop(progress: SpeechProgress) -> None:
        if (progress.activity, progress.done) == ("training", 1):
            raise Kill

    output = folder / f"damaged-{name}"
    with pytest.raises(Kill):
        train_speech(make_recipe(folder, **SHORT, output=str(output)), on_progress=stop)
    (path,) = output.with_name(f"{output.name}.partial").glob(f"checkpoints/step-*/{name}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert train(folder, "-o", str(output)) == 2
    error = read_error(capsys)
    assert f"{path}: corrupt checkpoint: cannot be read" in error
    assert "pass --fresh" in error


def test_the_manifest_of_another_language_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_manifest(
        folder / "german.jsonl", [{"audio": "0.wav", "text": GERMAN, "lang": "en"} for _ in range(8)]
    )
    expected = f"{manifest}: the texts that field 'lang' calls 'en' read like 'de'"
    data = {"train": str(manifest), "evaluate": {"tones": str(folder / "speech.jsonl")}}
    assert train(folder, data=data) == 2
    assert f"data.train.0: {expected}" in read_error(capsys)
    assert run_cli(["speech", "evaluate", str(folder / "listener"), str(manifest)]) == 2
    assert expected in read_error(capsys)


def test_text_that_no_tokenizer_takes_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = folder / "half.jsonl"
    manifest.write_text('{"audio": "0.wav", "text": "\\ud83d", "lang": "en"}\n', encoding="utf-8")
    assert run_cli(["speech", "evaluate", str(folder / "listener"), str(manifest)]) == 2
    assert "half.jsonl line 1: field 'text' holds \\ud83d" in read_error(capsys)


def test_a_gate_that_cannot_open_is_refused_before_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"train": str(folder / "speech.jsonl"), "evaluate": {"tones": str(folder / "speech.jsonl")}}
    limited = data | {"limits": {"evaluate": 1}}
    assert train(folder, "-o", str(folder / "deaf"), data=limited, align={"max_steps": 1}) == 2
    assert "no two are of one language: add some, raise probe_utterances, or set align.gate: null" in read_error(capsys)


def test_old_text_that_nothing_takes_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anchor = {"adapt": {"arm": {"adaptor_only": True}, "steps": 2, "anchor": str(folder / "text.txt")}}
    assert train(folder, data={"train": "none.jsonl", "evaluate": {"tones": "none.jsonl"}}, **anchor) == 2
    assert "adapt.anchor is not used: there is no method" in read_error(capsys)


def test_a_lesson_that_is_not_given_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"train": "none.jsonl", "evaluate": {"tones": "none.jsonl"}}
    assert train(folder, data=data, spell=True, align={"start_from": str(folder / "elsewhere")}) == 2
    assert "spell is not used: align.start_from takes the adaptor of" in read_error(capsys)


def test_an_adaptor_of_another_encoder_is_refused(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_whisper_of_a_second(folder / "other", width=32)
    align = {"start_from": str(trained)}
    assert train(folder, "-o", str(folder / "misfit"), encoder=str(other), align=align) == 2
    assert f"{other} is not the encoder" in read_error(capsys)


def test_an_adaptor_that_heard_other_silence_is_refused(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    align = {"start_from": str(trained)}
    assert train(folder, "-o", str(folder / "silence"), trailing_silence=0.2, align=align) == 2
    assert "was trained with trailing_silence: null, and the recipe says 0.2" in read_error(capsys)


def test_widths_that_do_not_match_are_refused(folder: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merged = merge_speech_delta(trained / "last", folder / "merged")
    assert run_cli(["speech", "transcribe", str(merged), str(folder / "0.wav")]) == 0
    config = json.loads((merged / "config.json").read_text())
    config["adaptor_config"]["bottleneck"] = 8
    (merged / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert run_cli(["speech", "transcribe", str(merged), str(folder / "0.wav")]) == 2
    assert "encoder, adaptor and language model must be those that were trained together" in read_error(capsys)


def test_a_language_that_prompts_cannot_name_is_refused_before_any_work(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_manifest(folder / "qq.jsonl", [{"audio": "0.wav", "text": "ab", "lang": "qq"}])
    model = str(trained / "last")
    assert run_cli(["speech", "evaluate", model, str(manifest)]) == 2
    assert f"{manifest}: has utterances in 'qq', but there is no language 'qq'" in read_error(capsys)
    assert run_cli(["speech", "evaluate", model, str(manifest), "--prompt", "Write it down."]) == 0


def test_transcribe_takes_any_length_rate_and_number_of_channels(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sounds = {
        "click.wav": make_tone(0.1),
        "half-minute.wav": make_tone(31),
        "silence.wav": make_silence(3),
        "ten-minutes.wav": np.concatenate([make_tone(20), make_silence(10)] * 20),
    }
    files = [write_sound(tmp_path / name, samples) for name, samples in sounds.items()]
    files.append(write_stereo(tmp_path / "stereo.wav", make_tone(1), make_silence(1)))
    command = ["speech", "transcribe", str(folder / "listener"), *map(str, files), "--lang", "en", "--format", "json"]
    assert run_cli(command) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    click, half, silence, ten, stereo = (row["segments"] for row in rows)
    assert [segment["ending"] for segment in (*click, *silence)] == [Ending.TOO_SHORT, Ending.SILENT]
    assert len(half) == 2
    assert rows[3]["seconds"] == 600
    assert ten[-1]["end"] <= 600
    assert 20 <= len(ten) <= 40
    assert max(segment["end"] - segment["start"] for segment in (*half, *ten)) <= 30
    assert rows[4]["seconds"] == pytest.approx(1.0)
    assert stereo[0]["ending"] in (Ending.END, Ending.LIMIT, Ending.LOOP)


def test_evaluate_skips_what_it_cannot_read_and_hears_the_rest(folder: Path, tmp_path: Path) -> None:
    write_sound(tmp_path / "long.wav", make_tone(31))
    write_sound(tmp_path / "click.wav", make_tone(0.1))
    write_sound(tmp_path / "silence.wav", make_silence(1))
    write_stereo(tmp_path / "stereo.wav", make_tone(1), make_silence(1))
    (tmp_path / "corrupt.wav").write_bytes(b"RIFF nonsense")
    names = ("long", "click", "silence", "stereo", "corrupt", "gone")
    rows = [{"audio": f"{name}.wav", "text": "" if name == "silence" else "ab", "lang": "en"} for name in names]
    manifest = write_manifest(tmp_path / "test.jsonl", rows)
    output = tmp_path / "scores.json"
    assert run_cli(["speech", "evaluate", str(folder / "listener"), str(manifest), "-o", str(output)]) == 0
    scored = SpeechEvaluation.read(output).sets["test"]
    assert [len(transcript.endings) for transcript in scored.transcripts] == [2, 1, 1, 1]
    assert [Path(item.audio).stem for item in scored.skipped] == ["corrupt", "gone"]
    assert scored.scores.corpus.num_empty_references == 1


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"song [live].wav"])
def test_any_name_of_a_file_can_be_printed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: bytes
) -> None:
    command = ["speech", "transcribe", str(folder / "listener"), str(tmp_path), "--lang", "en"]
    shown = f"{tmp_path}/{name.decode('utf-8', 'replace')}"
    write_sound(tmp_path / "good.wav", make_tone(0.5))
    shutil.copy(tmp_path / "good.wav", tmp_path / os.fsdecode(name))
    assert run_cli(command) == 0
    assert f"{shown}\t" in capsys.readouterr().out
    (tmp_path / os.fsdecode(name)).write_bytes(b"RIFF nonsense")
    assert run_cli(command) == 1
    assert f"warning: {shown}: cannot be decoded" in read_error(capsys)


def test_a_name_that_looks_like_markup_is_a_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["speech", "transcribe", str(folder / "listener"), "[/b].wav"]) == 1
    assert "warning: [/b].wav: no such file; skipped" in read_error(capsys)
