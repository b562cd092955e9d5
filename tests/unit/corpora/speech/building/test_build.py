"""Building sets from fake packages: manifests, licences, the wall, and nothing made twice."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from oblong.corpora.speech import load_audio, read_manifest
from oblong.corpora.speech.building import build
from oblong.corpora.speech.building.build import BuildRequest, build_sets
from oblong.corpora.speech.building.catalogue import SETS
from oblong.corpora.speech.building.splits import choose_split
from oblong.corpora.speech.building.summary import summarise_manifest
from oblong.errors import DataError, OutputWriteError, SelectionError
from tests.sound_builders import ToneEngine, encode_sound, write_deb

PROMPTS = {
    "activated": "Activated.",
    "digits/1": "one",
    "beep": "[this is a beep]",
    "dial": "Dial 500 now.",
    **{
        f"item-{number}": f"{word} is the word for it."
        for number, word in enumerate(["Apple", "Pear", "Plum", "Fig", "Kiwi"])
    },
}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """What the sets need, tiny."""
    folder = tmp_path / "given"
    g722 = encode_sound(tmp_path, "a.g722", 0.4)
    sounds = "usr/share/asterisk/sounds/en_US_f_Allison"
    files = {f"{sounds}/{name}.g722": g722 for name in (*PROMPTS, "unwritten")}
    write_deb(folder, "asterisk-core-sounds-en-g722", {**files, f"{sounds}/click.g722": g722[:100]}, version="1.6.1-1")
    lines = "\n".join(f"{name}: {text}" for name, text in {**PROMPTS, "click": "click"}.items())
    texts = {"usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz": gzip.compress(lines.encode())}
    write_deb(folder, "asterisk-core-sounds-en", texts)
    write_fillets(folder, encode_sound(tmp_path, "a.ogg"))
    for name, lang, template in (
        ("libreoffice-help-en-us", "en-US", "The {} file is now on your desk."),
        ("libreoffice-help-de", "de", "Die {} Datei liegt jetzt auf dem Tisch."),
    ):
        words = [f"{a}{b}" for a in ("rot", "blau", "alt", "neu", "gut") for b in ("e", "en", "er", "es")]
        page = f'<div id="DisplayArea">{"".join(f"<p>{template.format(word)}</p>" for word in words)}</div>'
        write_deb(folder, name, {f"usr/share/libreoffice/help/{lang}/text/swriter/a.html": page.encode()})
    return folder


def write_fillets(folder: Path, ogg: bytes) -> None:
    script = 'dialogId("lev-m-a", "f", "Hello.")\ndialogStr("Hallo jij daar.")\ndialogId("lev-x", "f", "Bye.")\n'
    scripts = "usr/share/games/fillets-ng/script/lev"
    write_deb(folder, "fillets-ng-data", {f"{scripts}/dialogs_nl.lua": script.encode()})
    sounds = "usr/share/games/fillets-ng/sound/lev/nl"
    write_deb(folder, "fillets-ng-data-nl", {f"{sounds}/lev-m-a.ogg": ogg, f"{sounds}/lev-x.ogg": ogg})
    document = b'<k><sound name="A" file="de/alpha/a.ogg"/><sound name="X" file="cs/alpha/x.ogg"/></k>'
    letters = {"usr/share/klettres/de/sounds.xml": document, "usr/share/klettres/de/alpha/a.ogg": ogg}
    write_deb(folder, "klettres-data", {**letters, "usr/share/klettres/cs/alpha/x.ogg": ogg})


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ToneEngine:
    tone = ToneEngine(fail_on="alter")
    monkeypatch.setattr(build, "open_engine", lambda name, store, folder, report: tone)
    return tone


@pytest.fixture
def request_(tmp_path: Path, packages: Path) -> BuildRequest:
    names = ("prompts-en", "synthetic-en", "synthetic-de", "dialogues-nl", "letters")
    return BuildRequest(
        folder=tmp_path / "speech", names=names, hours=0.04, quick=True, given_packages=packages, engines=("pico",)
    )


def ignore(stage: str, done: int, total: int) -> None:
    """A progress callback that listens to nothing."""


def test_every_set_becomes_manifests_with_licences(request_: BuildRequest, engine: ToneEngine) -> None:
    built = {item.name: item for item in build_sets(request_, ignore)}
    folder = request_.folder
    prompts = [row for name, rows in built["prompts-en"].manifests.items() for row in read_manifest(folder / name)]
    assert {row.text for row in prompts} == {
        "Activated.",
        "One.",
        *[text for text in PROMPTS.values() if "word" in text],
    }
    assert {row.licence for row in prompts} == {"CC-BY-SA-3.0"}
    assert {row.source for row in prompts} == {"asterisk-core-sounds-en-g722 1.6.1-1"}
    assert {row.speaker for row in prompts} == {"Allison Smith"}
    assert built["prompts-en"].skips.counts == {"annotation": 1, "number": 1, "no transcript": 1, "too short": 1}
    (dialogue,) = next(iter(built["dialogues-nl"].manifests.values()))
    assert (dialogue.text, dialogue.speaker, dialogue.lang) == ("Hallo jij daar.", "fillets nl small fish", "nl")
    (letter,) = read_manifest(folder / "letters-test.jsonl")
    assert (letter.text, letter.lang, letter.duration) == ("A.", "de", 0.5)
    overview = (folder / "LICENCES").read_text()
    assert "CC-BY-SA-3.0" in overview
    assert "letters-test.jsonl\n       1 clips  GPL-2+" in overview
    assert "do what you like" in (folder / "licences" / "klettres-data.copyright").read_text()


def test_no_sentence_and_no_synthetic_voice_is_on_both_sides(request_: BuildRequest, engine: ToneEngine) -> None:
    rows = [row for item in build_sets(request_, ignore) for found in item.manifests.values() for row in found]
    for row in rows:
        assert row.split == choose_split(row.text) or (row.lang == "de" and row.text == "A.")
        assert row.duration is not None
        assert load_audio(row.audio).size == pytest.approx(row.duration * 16_000, abs=1)
    synthetic = [row for row in rows if row.kind == "synthetic"]
    for lang in ("en", "de"):
        sides = [
            {row.speaker for row in synthetic if row.lang == lang and row.split == side} for side in ("train", "test")
        ]
        assert sides[0]
        assert sides[1]
        assert not sides[0] & sides[1]


def test_synthetic_speech_has_the_length_that_was_asked_for(request_: BuildRequest, engine: ToneEngine) -> None:
    (built,) = build_sets(replace(request_, names=("synthetic-en",)), ignore)
    seconds = {name: sum(row.duration or 0 for row in rows) for name, rows in built.manifests.items()}
    assert seconds["synthetic-en-train.jsonl"] == pytest.approx(0.04 * 3600 / 2, abs=13)
    assert seconds["synthetic-en-test.jsonl"] == pytest.approx(90, abs=13)


def test_a_second_build_does_nothing_and_a_longer_one_keeps_the_clips(
    request_: BuildRequest, engine: ToneEngine
) -> None:
    request = replace(request_, names=("synthetic-de", "letters"))
    first = build_sets(request, ignore)
    num_said = len(engine.said)
    again = build_sets(replace(request, given_packages=Path("/nowhere")), ignore)  # the packages are not needed
    assert [item.is_new for item in first] == [True, True]
    assert [item.is_new for item in again] == [False, False]
    assert [item.manifests for item in again] == [item.manifests for item in first]
    assert again[1].skips.counts == first[1].skips.counts
    assert len(engine.said) == num_said
    longer = build_sets(replace(request, hours=0.05), ignore)
    assert [item.is_new for item in longer] == [True, False]
    shorter, extended = (item[0].manifests["synthetic-de-train.jsonl"] for item in (first, longer))
    assert list(extended)[: len(shorter)] == list(shorter)
    failures = longer[0].skips.counts["not spoken"]
    assert len(engine.said) - num_said == len(extended) - len(shorter) + failures


def test_a_killed_build_goes_on(request_: BuildRequest, engine: ToneEngine) -> None:
    engine.fail_on = "nothing"
    request = replace(request_, names=("synthetic-en",))

    def stop(stage: str, done: int, total: int) -> None:
        if len(engine.said) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_sets(request, stop)
    assert not list(request.folder.glob("*.jsonl"))
    build_sets(request, ignore)
    assert len(set(engine.said)) == len(engine.said)


@pytest.mark.parametrize("damage", ["clip", "manifest", "marker"])
def test_a_damaged_set_is_made_again(request_: BuildRequest, engine: ToneEngine, damage: str) -> None:
    request = replace(request_, names=("letters",))
    (first,) = build_sets(request, ignore)
    if damage == "clip":
        first.manifests["letters-test.jsonl"][0].audio.unlink()
    else:
        file = {"manifest": "letters-test.jsonl", "marker": "letters.built.json"}[damage]
        (request.folder / file).write_text("{}\n")
    (second,) = build_sets(request, ignore)
    assert second.is_new
    assert second.manifests == first.manifests
    assert second.manifests["letters-test.jsonl"][0].audio.is_file()


def test_two_builds_of_one_request_are_equal(request_: BuildRequest, engine: ToneEngine, tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        build_sets(replace(request_, folder=tmp_path / name, names=("prompts-en", "synthetic-de")), ignore)
        texts.append([path.read_text() for path in sorted((tmp_path / name).glob("*.json*"))])
    assert texts[0] == texts[1]


def test_what_is_asked_wrongly_is_refused(request_: BuildRequest, engine: ToneEngine, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="no speech set 'klingon': choose among prompts-en"):
        build_sets(replace(request_, names=("klingon",)), ignore)
    with pytest.raises(SelectionError, match="synthetic speech needs an engine"):
        build_sets(replace(request_, engines=()), ignore)
    with pytest.raises(SelectionError, match="the engines flite have no train voice for 'de'"):
        build_sets(replace(request_, names=("synthetic-de",), engines=("flite",)), ignore)


def test_a_folder_that_cannot_be_written_is_named(request_: BuildRequest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputWriteError, match="file/speech"):
        build_sets(replace(request_, folder=tmp_path / "file" / "speech"), ignore)


def test_a_package_without_its_contents_is_refused(request_: BuildRequest, engine: ToneEngine) -> None:
    assert request_.given_packages is not None
    write_deb(request_.given_packages, "asterisk-core-sounds-en", {})
    write_deb(request_.given_packages, "klettres-data", {})
    with pytest.raises(DataError, match=r"does not hold usr/share/doc/.*core-sounds-en\.txt\.gz"):
        build_sets(replace(request_, names=("prompts-en",)), ignore)
    with pytest.raises(DataError, match="letters: nothing of it can be used"):
        build_sets(replace(request_, names=("letters",)), ignore)


def test_voices_that_always_fail_end_the_build(request_: BuildRequest, engine: ToneEngine) -> None:
    engine.fail_on = "e"
    with pytest.raises(DataError, match="synthetic-en: the voices fail too often: 51 skipped: 51 not spoken"):
        build_sets(replace(request_, names=("synthetic-en",)), ignore)


def test_rows_of_the_summary(request_: BuildRequest, engine: ToneEngine) -> None:
    (built,) = build_sets(replace(request_, names=("letters",)), ignore)
    (row,) = summarise_manifest("letters-test.jsonl", built.manifests["letters-test.jsonl"])
    assert (row.lang, row.num_utterances, row.seconds, row.num_speakers, row.kind) == ("de", 1, 0.5, 1, "human")
    marker = json.loads((request_.folder / "letters.built.json").read_text())
    assert marker["versions"] == {"klettres-data": "1.0-1"}


def test_the_quick_build_leaves_out_the_large_packages() -> None:
    names = {package for item in SETS.values() if item.in_quick for package in item.list_packages(quick=True)}
    assert "fillets-ng-data" not in names
    assert all(item.list_packages(quick=False) for item in SETS.values())
