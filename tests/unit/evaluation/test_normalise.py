from __future__ import annotations

import pytest

from oblong.evaluation.normalise import SPELLING_FILE, choose_normaliser, tidy
from oblong.records.base import digest_bytes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It's twenty-one dollars.", "it is $21"),
        ("I won't, and he can't!", "i will not and he can not"),
        ("Mr. Smith paid one hundred and one pounds", "mister smith paid £101"),
        ("The colour of the grey theatre", "the color of the gray theater"),
        ("um, the nineteen sixties", "the 1960s"),
        ("[laughter] well (coughs) yes", "well yes"),
    ],
)
def test_english_spellings_of_the_same_words_are_equal(one: str, other: str) -> None:
    normalise = choose_normaliser("en")
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), [("schön", "schon"), ("Bären", "Baren"), ("Maße", "Masse")])
def test_german_umlauts_tell_words_apart(one: str, other: str) -> None:
    normalise = choose_normaliser("de")
    assert normalise(one) != normalise(other)
    assert choose_normaliser("en")(one) == choose_normaliser("en")(other)  # why German must not get the English one


def test_german_loses_case_and_punctuation_and_nothing_else() -> None:
    assert choose_normaliser("de")("„Schöne Grüße“, sagte er; 3,5 Äpfel!") == "schöne grüße sagte er 3 5 äpfel"
    assert choose_normaliser("de")("scho\u0308n") == "schön"


def test_vowel_signs_stay_in_their_words() -> None:
    hindi = "नमस्ते, दुनिया!"
    assert choose_normaliser("hi")(hindi) == "नमस्ते दुनिया"
    assert len(choose_normaliser("fr")(hindi).split()) > 2  # Whisper's basic normaliser tears it apart


@pytest.mark.parametrize(
    ("lang", "text", "words"), [("zh", "你好,世界。", "你 好 世 界"), ("ja", "ガス", "ガ ス"), ("th", "ที่นี่", "ที่ นี่")]
)
def test_where_words_are_not_separated_characters_are_counted(lang: str, text: str, words: str) -> None:
    assert choose_normaliser(lang)(text) == words


@pytest.mark.parametrize("lang", ["en", "en-GB", "EN_us", "eng"])
def test_regions_do_not_change_the_language(lang: str) -> None:
    assert choose_normaliser(lang).info.name == "whisper-english"


def test_the_version_names_the_spelling_map() -> None:
    digest = "6607f948be9824d2e1b2fa2223cd94c06c45afa4e05ea0e3d5e1f2bdffde2465"  # SOURCES.md
    assert digest_bytes(SPELLING_FILE.read_bytes()) == f"sha256:{digest}"
    assert digest[:12] in choose_normaliser("en").info.version


def test_as_written_means_all_but_the_white_space() -> None:
    assert tidy("  Well,\n\tGrüße!  ") == "Well, Grüße!"
