"""The one convention of target texts, so that a model learns one way to write.

Cased and punctuated as in the source, with these changes: it begins with a capital letter and ends in `.`, `?` or `!`;
single digits are words ("press 1" is spoken as "press one"); typographic quotes, dashes and dots are plain; double
quotes go. A text that still holds another digit, an annotation such as `[beep]`, or a sign that is not spoken is left
out.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# 0 to 9; in Russian the nominative, which is what a voice menu says most often.
DIGITS: Final[Mapping[str, tuple[str, ...]]] = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "de": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
    "fr": ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
    "nl": ("nul", "een", "twee", "drie", "vier", "vijf", "zes", "zeven", "acht", "negen"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
    "it": ("zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"),
    "ru": ("ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять"),
}
APOSTROPHES: Final = "\u2018\u2019\u00b4`"
DASHES: Final = "\u2013\u2014"
PLAIN: Final = str.maketrans(
    {**dict.fromkeys(APOSTROPHES, "'"), **dict.fromkeys(DASHES, "-"), "\u2026": "...", "\xa0": " "}
)
QUOTES: Final = re.compile(r'["“”„«»]')
ANNOTATION: Final = re.compile(r"[\[\](){}<>]")
SINGLE_DIGIT: Final = re.compile(r"(?<![\w.,])\d(?!\w|[.,]\d)")
UNSPOKEN: Final = re.compile(r"[^\w\s,.?!':;-]|_")
SHOWN_CHARACTERS: Final = 60
ENDINGS: Final = (".", "?", "!")


@dataclass(frozen=True, slots=True)
class Unspeakable:
    """A text that is not what is spoken; `kind` is what to count it by."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind} in {textwrap.shorten(self.text, SHOWN_CHARACTERS, placeholder=' ...')!r}"


def standardise_text(text: str, lang: str) -> str | Unspeakable:
    """Bring a transcript into the convention.

    Args:
        text: as in the source.
        lang: of the text, for the names of the digits.

    Returns:
        The text; or Unspeakable where it holds annotations, other digits or signs that are not spoken, or no letters.
    """
    plain = unicodedata.normalize("NFC", QUOTES.sub("", text).translate(PLAIN))
    spelled = _spell_digits(plain, lang)
    if ANNOTATION.search(plain):
        return Unspeakable("annotation", text)
    if re.search(r"\d", spelled):
        return Unspeakable("number", text)
    if UNSPOKEN.search(spelled):
        return Unspeakable("unspoken sign", text)
    if not re.search(r"[^\W\d_]", spelled):
        return Unspeakable("no words", text)
    return _punctuate(spelled)


def _spell_digits(text: str, lang: str) -> str:
    names = DIGITS.get(lang)
    return SINGLE_DIGIT.sub(lambda match: names[int(match[0])], text) if names else text


def _punctuate(text: str) -> str:
    text = re.sub(r"^[\s.,;:-]+", "", text)
    text = re.sub(r"\s*(?:\.{2,}|-)\s*$", "", text)
    text = re.sub(r"\s+-\s+|\s*\.{2,}\s*", ", ", text)
    text = re.sub(r"\s+([,.?!:;])", r"\1", " ".join(text.split())).rstrip(",;:")
    text = text[:1].upper() + text[1:]
    return text if text.endswith(ENDINGS) else f"{text}."
