"""Synthetic speech: no voice and no sentence on both sides, drawn from the seed, and no clip made twice."""

from __future__ import annotations

import shutil
import sys
import types
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from oblong.corpora.bundled import locate_bundled
from oblong.corpora.speech.building.clips import store_clip
from oblong.corpora.speech.building.engines import EspeakEngine, FliteEngine, PicoEngine, Program, open_engine, speak
from oblong.corpora.speech.building.packages import Package, PackageStore
from oblong.corpora.speech.building.sentences import Sentence, collect_sentences, read_paragraphs, split_sentences
from oblong.corpora.speech.building.splits import TEST, TRAIN, choose_split
from oblong.corpora.speech.building.synthesis import ClipPlan, iter_passages, iter_plans
from oblong.corpora.speech.building.voices import ENGINES, VOICES, Voice, choose_voices
from oblong.errors import AudioError, MissingExtraError, SelectionError
from tests.sound_builders import RATE, ToneEngine, make_tone, write_deb, write_sound

SENTENCES = [Sentence(f"Sentence number {word} is this one.", "CC0-1.0") for word in ("one", "two", "three")]


def ignore(stage: str, done: int, total: int) -> None:
    """A progress callback that listens to nothing."""


def test_no_voice_speaks_on_both_sides() -> None:
    for lang in ("en", "de"):
        train, test = ({voice.speaker for voice in choose_voices(lang, split, ENGINES)} for split in (TRAIN, TEST))
        assert train
        assert test
        assert not train & test
    assert len({(voice.speaker, voice.split) for voice in VOICES}) == len(VOICES)
    assert {voice.engine for voice in choose_voices("de", TEST, ("pico",))} == {"pico"}


def test_plans_depend_on_the_seed_alone() -> None:
    voices = choose_voices("en", TRAIN, ENGINES)
    first, again, other = (list(islice(iter_plans(SENTENCES, voices, seed), 50)) for seed in (0, 0, 1))
    assert first == again != other
    assert len({plan.key for plan in first}) == 50
    assert len(Counter(plan.voice.speaker for plan in first)) > 5


def test_passages_are_whole_sentences_in_order_of_many_lengths() -> None:
    sentences = [Sentence(f"This is sentence {'i' * (number % 30)}.", f"L{number % 2}") for number in range(400)]
    passages = list(islice(iter_passages(sentences, 0), 100))
    spoken = " ".join(passage.text for passage in passages)
    assert " ".join(sentence.text for sentence in sentences).startswith(spoken)
    lengths = sorted(len(passage.text) for passage in passages)
    assert lengths[0] < 50 < 120 < lengths[-1] <= 160
    assert {passage.licence for passage in passages} >= {"L0 and L1", "L1 and L0"}


def test_a_sentence_longer_than_a_passage_is_spoken_alone() -> None:
    long = Sentence("A" * 300 + ".", "L")
    assert list(islice(iter_passages([long, *SENTENCES[:1]], 0), 2)) == [long, SENTENCES[0]]


def test_the_tract_changes_pitch_but_not_tempo() -> None:
    engine = ToneEngine()
    recorded, shorter = (
        speak(engine, Voice(engine="pico", base="x", lang="en", split=TRAIN, tract=tract), "a" * 20, 1.1, 1.0)
        for tract in (1.0, 1.25)
    )
    assert abs(recorded.size - shorter.size) <= 2
    assert list(engine.said[1][2:]) == pytest.approx([1.1 / 1.25, 1 / 1.25])
    # the engine was asked for 160 Hz, which the resampling brings back to 200
    assert find_hertz(recorded) == pytest.approx(find_hertz(shorter), abs=2)


def find_hertz(samples: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * RATE / samples.size


def test_an_engine_that_says_nothing_is_an_error() -> None:
    with pytest.raises(AudioError, match="said nothing"):
        speak(ToneEngine(), VOICES[0], "", 1.0, 1.0)


def test_a_clip_is_made_once_and_a_broken_one_again(tmp_path: Path) -> None:
    path, made = tmp_path / "clips" / "a.flac", []

    def make() -> np.ndarray:
        made.append(1)
        return make_tone(0.25)

    assert [store_clip(path, make) for _ in range(3)] == [0.25] * 3
    assert len(made) == 1
    path.write_bytes(b"")
    assert store_clip(path, make) == 0.25
    assert len(made) == 2
    assert [item.name for item in path.parent.iterdir()] == ["a.flac"]


def test_a_key_tells_everything_that_makes_the_clip() -> None:
    plan = ClipPlan(passage=SENTENCES[0], voice=VOICES[0], speed=1.0, pitch=1.0, level_db=-3.0)
    others = [
        ClipPlan(passage=SENTENCES[1], voice=VOICES[0], speed=1.0, pitch=1.0, level_db=-3.0),
        ClipPlan(passage=SENTENCES[0], voice=VOICES[1], speed=1.0, pitch=1.0, level_db=-3.0),
        ClipPlan(passage=SENTENCES[0], voice=VOICES[0], speed=1.1, pitch=1.0, level_db=-3.0),
        ClipPlan(passage=SENTENCES[0], voice=VOICES[0], speed=1.0, pitch=1.1, level_db=-3.0),
        ClipPlan(passage=SENTENCES[0], voice=VOICES[0], speed=1.0, pitch=1.0, level_db=-4.0),
    ]
    assert len({plan.key, *(other.key for other in others)}) == 6


PAGE = """<nav><p>Not this one at all.</p></nav><div id="DisplayArea"><p class="x">You can <b>open</b> the file
with&nbsp;care. Press F2 to see all of it. </p><p>Choose <span class="switchinline">Mac</span> and open it now.</p>
<p>Der Rahmen wird z. B. hier ge\xadzeigt.</p></div><div id="DonationFrame"><p>Nor is this one here.</p></div>"""


def test_paragraphs_of_a_help_page() -> None:
    assert read_paragraphs(PAGE) == [
        "You can open the file with care. Press F2 to see all of it.",
        "Der Rahmen wird z. B. hier gezeigt.",
    ]


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        ("You can open the file. Press F2 to see it all.", ["You can open the file."]),
        ("Der Rahmen wird z. B. hier gezeigt.", []),
        ("Choose Tools - Options to open it.", []),
        ("The HTML page is shown here.", []),
        ("Open the LibreOffice start page now.", []),
        ("Too few words.", []),
        ("no capital at the beginning of this.", []),
        ("The heading without an end", []),
        ("Do you really want to know it?", ["Do you really want to know it?"]),
        (" ".join(["Word", *["word"] * 16]) + ".", []),
    ],
)
def test_only_plain_sentences_are_taken(paragraph: str, expected: list[str]) -> None:
    assert list(split_sentences(paragraph, "en")) == expected


def make_help(folder: Path, lang: str, paragraphs: list[str]) -> Package:
    page = f'<div id="DisplayArea">{"".join(f"<p>{part}</p>" for part in paragraphs)}</div>'
    name = {"en": "libreoffice-help-en-us", "de": "libreoffice-help-de"}[lang]
    file = f"usr/share/libreoffice/help/{lang}/text/swriter/guide/a.html"
    return Package(name=name, version="1.0-1", file=write_deb(folder, name, {file: page.encode()}))


def test_each_sentence_is_on_one_side_and_once(tmp_path: Path) -> None:
    texts = [
        f"The {color} {thing} is on the table."
        for color in ["red", "blue", "green", "old"]
        for thing in ["book", "cup"]
    ]
    package = make_help(tmp_path, "en", [*texts, *texts])
    sides = {split: [item.text for item in collect_sentences("en", split, [package], 0)] for split in (TRAIN, TEST)}
    assert sorted(sides[TRAIN] + sides[TEST]) == sorted(texts)
    assert all(choose_split(text) == split for split, found in sides.items() for text in found)
    assert sides[TRAIN] == [item.text for item in collect_sentences("en", TRAIN, [package], 0)]


def test_the_held_out_german_text_is_left_out(tmp_path: Path) -> None:
    """The first plain sentence of bundled:german-test, and one that is not in it."""
    held_out = next(split_sentences(locate_bundled("german-test").read_text().split('"text": "')[1], "de"), None)
    fresh = "Der blaue Elefant tanzt heute im Garten."
    paragraphs = [fresh] + ([held_out] if held_out else [])
    package = make_help(tmp_path, "de", paragraphs)
    found = [item.text for split in (TRAIN, TEST) for item in collect_sentences("de", split, [package], 0)]
    assert found == [fresh]


def write_program(folder: Path, name: str, wav: Path) -> Program:
    """A program that keeps its arguments and its text, and copies a sound to its last argument."""
    program = folder / name
    program.write_text(f'#!/bin/sh\necho "$@" > {folder}/arguments\nfor last; do :; done\ncp {wav} "$last"\n')
    program.chmod(0o755)
    return Program(program)


def test_programs_are_called_with_the_manner_of_speaking(tmp_path: Path) -> None:
    wav = write_sound(tmp_path / "said.wav", make_tone(0.5, 22_050), 22_050)
    flite = FliteEngine(write_program(tmp_path, "flite", wav))
    assert flite.speak("Hi.", "slt", 2.0, 1.0).size == pytest.approx(8000, abs=1)
    assert (tmp_path / "arguments").read_text().startswith("-voice slt --setf duration_stretch=0.5000 -f ")
    espeak = EspeakEngine(write_program(tmp_path, "espeak-ng", wav))
    espeak.speak("Hallo.", "de+f2", 0.5, 1.2)
    assert (tmp_path / "arguments").read_text().startswith("-v de+f2 -s 80 -p 60 -f ")


def test_a_program_that_fails_is_an_audio_error(tmp_path: Path) -> None:
    program = tmp_path / "flite"
    program.write_text("#!/bin/sh\necho no such voice >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(AudioError, match=r"failed on 'Hi\.': no such voice"):
        FliteEngine(Program(program)).speak("Hi.", "slt", 1.0, 1.0)


def test_a_program_is_unpacked_from_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wav = write_sound(tmp_path / "said.wav", make_tone(0.5))
    script = f'#!/bin/sh\necho "$LD_LIBRARY_PATH" > {tmp_path}/libraries\nfor last; do :; done\ncp {wav} "$last"\n'
    write_deb(tmp_path / "given", "flite", {"usr/bin/flite": script.encode()}, depends="libflite1 (= 2)")
    write_deb(tmp_path / "given", "libunrelated", {"usr/lib/unrelated/lib.so": b""})
    write_deb(tmp_path / "given", "libflite1", {"usr/lib/odd/libflite.so.1": b""})
    monkeypatch.setattr(shutil, "which", lambda name: None)
    store = PackageStore(folder=tmp_path / "kept", given=tmp_path / "given")
    for _ in range(2):  # the second time nothing is unpacked
        engine = open_engine("flite", store, tmp_path / "engines", ignore)
        assert engine.speak("Hi.", "slt", 1.0, 1.0).size == 8000
    assert (tmp_path / "libraries").read_text().startswith(str(tmp_path / "engines" / "flite" / "usr/lib/odd"))


class ForgetfulPico:
    """As py-nanotts: the samples depend on the text and on what was said before."""

    last = ""

    def speak(self, text: str, voice: str, speed: float, pitch: float) -> bytes:
        before, self.last = self.last, text
        return np.array([len(before), 16384], "<i2").tobytes()


def test_pico_says_the_same_whatever_it_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("py_nanotts")
    monkeypatch.setattr(module, "NanoTTS", ForgetfulPico, raising=False)
    monkeypatch.setitem(sys.modules, "py_nanotts", module)
    engine = PicoEngine()
    first = engine.speak("One.", "de-DE", 1.0, 1.0)
    engine.speak("Something else.", "de-DE", 1.0, 1.0)
    assert np.array_equal(engine.speak("One.", "de-DE", 1.0, 1.0), first)
    assert first[1] == 0.5


def test_a_missing_engine_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PackageStore(folder=tmp_path)
    with pytest.raises(SelectionError, match="no speech engine 'siri': choose among pico, flite, espeak"):
        open_engine("siri", store, tmp_path, ignore)
    monkeypatch.setitem(sys.modules, "py_nanotts", None)
    with pytest.raises(MissingExtraError, match=r"oblong\[tts\]"):
        open_engine("pico", store, tmp_path, ignore)
