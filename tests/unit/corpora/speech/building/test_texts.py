"""Texts: the one convention, the wall between training and test, and the packages' own transcripts."""

from __future__ import annotations

import pytest

from oblong.corpora.speech.building.convention import Unspeakable, standardise_text
from oblong.corpora.speech.building.splits import TEST, TEST_SHARE, TRAIN, choose_split, compute_text_key
from oblong.corpora.speech.building.transcripts import parse_asterisk, parse_dialogues, parse_letters
from oblong.errors import DataError


@pytest.mark.parametrize(
    ("lang", "text", "expected"),
    [
        ("en", "Press 1 to mute,  or 8 to exit.", "Press one to mute, or eight to exit."),
        ("fr", "appuyez sur 1", "Appuyez sur un."),
        ("ru", "нажмите 2 - чтобы", "Нажмите два, чтобы."),
        ("en", "...has joined the conference.", "Has joined the conference."),
        ("en", "the time will be exactly...", "The time will be exactly."),
        ("en", "Well… I don\u2019t know", "Well, I don't know."),
        ("de", "„Fein“, sagte sie \u2013 und ging!", "Fein, sagte sie, und ging!"),
        ("en", "Is that so ?", "Is that so?"),
        ("en", "A.M.", "A.M."),
        ("sw", "habari", "Habari."),
        ("en", "naïve", "Naïve."),
    ],
)
def test_the_convention(lang: str, text: str, expected: str) -> None:
    assert standardise_text(text, lang) == expected
    assert standardise_text(expected, lang) == expected


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[this is a simple beep tone]", "annotation"),
        ("at [@]", "annotation"),
        ("IAX (note)", "annotation"),
        ("Dial 500 now.", "number"),
        ("3D audio", "number"),
        ("28.8 kilobits", "number"),
        ("on / off", "unspoken sign"),
        ("snake_case", "unspoken sign"),
        ("...", "no words"),
        ("", "no words"),
    ],
)
def test_what_cannot_be_spoken_as_written_is_left_out(text: str, kind: str) -> None:
    outcome = standardise_text(text, "en")
    assert isinstance(outcome, Unspeakable)
    assert outcome.kind == kind


def test_sentences_with_one_opening_are_on_one_side() -> None:
    texts = [f"Please press one to hear {word}." for word in ["apples", "pears", "plums", "cherries", "grapes", "figs"]]
    assert len({choose_split(text) for text in texts}) == 1
    assert choose_split("THANK you!") == choose_split("Thank you.")


def test_some_forty_percent_of_the_openings_are_for_the_test() -> None:
    sides = [choose_split(f"word{number} and more") for number in range(4000)]
    assert sides.count(TEST) / 4000 == pytest.approx(TEST_SHARE, abs=0.03)
    assert set(sides) == {TRAIN, TEST}


def test_the_side_of_a_sentence_never_changes() -> None:
    """Manifests of two versions of oblong must not leak into each other."""
    assert [choose_split(text) for text in ("Thank you.", "Guten Tag.", "Activated.", "Zero.")] == SIDES


SIDES = [TRAIN, TEST, TRAIN, TRAIN]  # as first computed


def test_text_keys_ignore_case_and_punctuation() -> None:
    assert compute_text_key("Öffnen Sie, bitte: die Tür!") == "öffnen sie bitte die tür"


def test_asterisk_transcripts() -> None:
    text = "; a comment\n\nactivated: Activated.\ndigits/1:  one \nconf: conf: Press one.\nno colon here\n"
    assert parse_asterisk(text) == {"activated": "Activated.", "digits/1": "one", "conf": "Press one."}


def test_dialogues_in_two_languages() -> None:
    script = (
        'dialogId("a-m-x", "font_small", "He said \\"no\\".")\ndialogStr("Er sagte \\"nein\\".")\n\n'
        'dialogId("a-v-y", "font_big", "Untranslated.")\n'
    )
    assert parse_dialogues(script) == {
        "a-m-x": ('He said "no".', 'Er sagte "nein".'),
        "a-v-y": ("Untranslated.", ""),
    }


def test_letters_and_syllables() -> None:
    document = '<a><b><sound name="Ä" file="de/ae.ogg"/><sound name="AFFE" file="de/affe.ogg"/></b></a>'
    assert parse_letters(document.encode()) == {"de/ae.ogg": "Ä", "de/affe.ogg": "affe"}
    with pytest.raises(DataError, match=r"sounds\.xml"):
        parse_letters(b"<klettres>")
