"""Which differences of spelling are no errors of recognition.

    English                   Whisper's English normaliser: lower case, no punctuation, contractions spelled out,
                              numbers as digits, British spellings as American ones, "uh" and "um" left out
    most other languages      Whisper's basic normaliser with diacritics kept: lower case, no punctuation; never the
                              English one, which makes "schon" of "schön"
    vowel signs               the same, but combining marks stay: Whisper's basic normaliser takes them for symbols
                              and tears Hindi or Bengali words apart
    no spaces between words   the same again, with every character a word, so that WER is CER

Source: Radford et al. 2022, arXiv:2212.04356, appendix C; `transformers.models.whisper.english_normalizer`. The
spelling map beside this file is Whisper's own (SOURCES.md).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import regex

from oblong.records import NormaliserInfo
from oblong.records.base import digest_bytes

SPELLING_FILE: Final = Path(__file__).with_name("english_spelling.json")
ENGLISH: Final = ("en", "eng", "english")
# Written without spaces between words. Source: appendix C splits zh, ja, th, lo and my; km and yue are written so too.
UNSPACED: Final = ("zh", "yue", "ja", "th", "lo", "my", "km")
# Written with combining vowel signs (Unicode category M), which are letters of the word.
INDIC: Final = ("as", "bn", "bo", "gu", "hi", "kn", "ml", "mr", "ne", "or", "pa", "sa", "sd", "si", "ta", "te")
VOWEL_SIGNS: Final = (*INDIC, "th", "lo", "my", "km")
DIGEST_LENGTH: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Normaliser:
    """Makes texts comparable; `info` goes into the record."""

    info: NormaliserInfo
    clean: Callable[[str], str]

    def __call__(self, text: str) -> str:
        """The text that is scored: single spaces, none at the ends."""
        return " ".join(self.clean(text).split())


def choose_normaliser(lang: str) -> Normaliser:
    """The normaliser of a language.

    Args:
        lang: ISO 639 code as the manifest has it; a region (`de-AT`, `pt_BR`) is ignored. An unknown code, or none,
            gets the basic normaliser.
    """
    return _make_normaliser(lang.strip().lower().replace("_", "-").split("-")[0])


def tidy(text: str) -> str:
    """The text as written, for raw rates: Unicode composed (NFC) and white space as single spaces, nothing else."""
    return " ".join(unicodedata.normalize("NFC", text).split())


@cache
def _make_normaliser(lang: str) -> Normaliser:
    version = f"transformers {metadata.version('transformers')}"
    if lang in ENGLISH:
        spellings = f"spellings {digest_bytes(SPELLING_FILE.read_bytes()).removeprefix('sha256:')[:DIGEST_LENGTH]}"
        info = NormaliserInfo(name="whisper-english", version=f"{version}, {spellings}")
        return Normaliser(info=info, clean=_make_english())
    clean: Callable[[str], str]
    if lang in VOWEL_SIGNS:
        info, clean = NormaliserInfo(name="basic, marks kept", version="1"), remove_punctuation
    else:
        info, clean = NormaliserInfo(name="whisper-basic", version=version), _make_basic()
    if lang in UNSPACED:
        split = NormaliserInfo(name=f"{info.name}, characters as words", version=info.version)
        return Normaliser(info=split, clean=lambda text: split_characters(clean(text)))
    return Normaliser(info=info, clean=clean)


def remove_punctuation(text: str) -> str:
    """Whisper's basic normaliser, except that combining marks (category M) stay where they are."""
    lowered = re.sub(r"\(([^)]+?)\)", "", re.sub(r"[<\[][^>\]]*[>\]]", "", text.lower()))
    composed = unicodedata.normalize("NFKC", lowered)
    return "".join(" " if unicodedata.category(character)[0] in "SP" else character for character in composed)


def split_characters(text: str) -> str:
    """Every character a word, together with the marks that combine with it."""
    return " ".join(regex.findall(r"\X", text))


def _make_english() -> Callable[[str], str]:
    from transformers.models.whisper import english_normalizer

    library: Any = english_normalizer  # without annotations
    spellings = json.loads(SPELLING_FILE.read_text(encoding="utf-8"))
    normaliser: Callable[[str], str] = library.EnglishTextNormalizer(spellings)
    return normaliser


def _make_basic() -> Callable[[str], str]:
    from transformers.models.whisper import english_normalizer

    library: Any = english_normalizer
    normaliser: Callable[[str], str] = library.BasicTextNormalizer(remove_diacritics=False)
    return normaliser
