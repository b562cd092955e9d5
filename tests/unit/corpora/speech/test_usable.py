"""What is skipped is counted, with the reason; what is left is decoded lazily."""

from __future__ import annotations

from pathlib import Path

import pytest

from oblong.corpora.speech import AudioLimits, SkipReport, Utterance, iter_audio, select_usable
from oblong.errors import DataError
from tests.sound_builders import make_tone, write_sound


@pytest.fixture
def mixed(tmp_path: Path) -> list[Utterance]:
    """Good, missing, good, corrupt, silent, short, long, without a text."""
    (tmp_path / "corrupt.wav").write_bytes(b"RIFFnonsense")
    sounds = {"one": 0.5, "two": 0.6, "short": 0.05, "long": 3.0, "quiet": 0.5, "mute": 0.5}
    for name, seconds in sounds.items():
        write_sound(tmp_path / f"{name}.wav", make_tone(seconds, level=0 if name in ("quiet", "mute") else 0.5))
    names = ["one", "missing", "two", "corrupt", "quiet", "short", "long"]
    said = [Utterance(tmp_path / f"{name}.wav", "Something.", "en") for name in names]
    return [*said, Utterance(tmp_path / "mute.wav", "", "en")]


def test_what_is_skipped_is_counted_with_its_reason(mixed: list[Utterance]) -> None:
    seen: list[tuple[int, int]] = []
    kept, skips = select_usable(mixed, AudioLimits(max_seconds=2), lambda done, total: seen.append((done, total)))
    assert [utterance.audio.stem for utterance in kept] == ["one", "two"]
    assert [utterance.duration for utterance in kept] == [0.5, 0.6]
    assert skips.counts == {
        "missing": 1, "corrupt": 1, "silent": 1, "too short": 1, "too long": 1, "empty transcript": 1,
    }  # fmt: skip
    described = skips.describe()
    assert described.startswith("6 skipped: 1 missing, 1 corrupt")
    assert "missing.wav: no such file" in described
    assert seen == [(1, 8), (3, 8)]


def test_an_empty_transcript_can_be_kept(mixed: list[Utterance]) -> None:
    kept, skips = select_usable(mixed[-1:], AudioLimits(keep_empty_text=True))
    assert kept[0].text == ""
    assert skips.describe() == ""


def test_files_are_opened_one_by_one(mixed: list[Utterance]) -> None:
    skips = SkipReport()
    stream = iter_audio(mixed, skips)
    first, samples = next(stream)
    assert (first.audio.stem, samples.size, skips.total) == ("one", 8000, 0)
    mixed[2].audio.unlink()  # while the manifest is being read
    assert next(stream)[0].audio.stem == "long"
    assert skips.counts["missing"] == 2


def test_nothing_usable_is_refused(mixed: list[Utterance]) -> None:
    with pytest.raises(DataError, match="none of 1 utterances can be used: 1 skipped: 1 missing"):
        select_usable(mixed[1:2])
    with pytest.raises(DataError, match="none of 0 utterances"):
        select_usable([])


def test_examples_do_not_grow_with_the_manifest() -> None:
    skips = SkipReport()
    for number in range(1000):
        skips.add("missing", f"{number}.wav: no such file")
    assert skips.total == 1000
    assert len(skips.examples["missing"]) == 3
