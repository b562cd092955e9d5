"""Sentences to be spoken by synthetic voices: short, plain, of everyday length, each once.

They come from the LibreOffice help and, in the full build, from the dialogues of Fish Fillets. Sentences of the German
text that oblong holds out (`bundled:german-test`) are left out, so that training on speech does not train on that text.
"""

from __future__ import annotations

import html
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oblong.corpora.bundled import locate_bundled
from oblong.corpora.speech.building.convention import standardise_text
from oblong.corpora.speech.building.deb_archive import iter_files
from oblong.corpora.speech.building.packages import Package
from oblong.corpora.speech.building.splits import choose_split, compute_text_key
from oblong.corpora.speech.building.transcripts import parse_dialogues

HELP_PACKAGES: Final[Mapping[str, str]] = {"en": "libreoffice-help-en-us", "de": "libreoffice-help-de"}
DIALOGUE_PACKAGE: Final = "fillets-ng-data"
HELP_LICENCE: Final = "MPL-2.0 (LibreOffice help)"
DIALOGUE_LICENCE: Final = "GPL-2 (Fish Fillets)"
# The part about programming is mostly code; the second is lists of functions.
HELP_PAGE: Final = re.compile(r"usr/share/libreoffice/help/[^/]+/text/(?!sbasic|shared/optionen/expert).*\.html")

PLAIN_SENTENCE: Final = re.compile(r"[A-ZÄÖÜ][A-Za-zÄÖÜäöüß,' -]*[a-zäöüß]{2}[.!?]")
# Cut after an abbreviation, or a path through menus ("Tools - Options").
BROKEN: Final = re.compile(r"\b(?:bzw|usw|etc|ca|Nr|Abb|evtl|ggf|inkl|vgl|max|min|vs|Dr|Mr|Mrs)\.$|\s[-\u2013\u2014]\s")
COMPOUND_CASE: Final = re.compile(r"[A-ZÄÖÜ]{2}|[a-zäöüß][A-ZÄÖÜ]| [-'] ?|-$")
BOUNDARY: Final = re.compile(r"(?<=[.!?])\s+(?=[A-ZÄÖÜ])")
NUM_WORDS: Final = (4, 16)
MAX_CHARACTERS: Final = 110


@dataclass(frozen=True, slots=True)
class Sentence:
    """Something to say, and under which licence."""

    text: str
    licence: str


def collect_sentences(lang: str, split: str, packages: Iterable[Package], seed: int) -> list[Sentence]:
    """The sentences of one language on one side of the wall, each once, in an order that depends on the seed only.

    Args:
        lang: `en` or `de`.
        split: `train` or `test`.
        packages: any of the help and dialogue packages; the others are ignored.
        seed: of the order.
    """
    seen = set(_iter_held_out_keys()) if lang == "de" else set()
    kept = []
    for sentence in _iter_raw(lang, packages):
        key = compute_text_key(sentence.text)
        if key not in seen and choose_split(sentence.text) == split:
            seen.add(key)
            kept.append(sentence)
    kept.sort(key=lambda sentence: sentence.text)
    random.Random(f"{seed}:{lang}:{split}").shuffle(kept)
    return kept


def split_sentences(paragraph: str, lang: str) -> Iterator[str]:
    """The sentences of a paragraph that a voice can say plainly: no numbers, abbreviations, menus or code."""
    for part in BOUNDARY.split(" ".join(paragraph.split())):
        sentence = standardise_text(part, lang)
        is_whole = part[:1].isupper() and part.endswith((".", "!", "?")) and not BROKEN.search(part)
        if isinstance(sentence, str) and is_whole and _is_plain(sentence):
            yield sentence


def read_paragraphs(page: str) -> list[str]:
    """The running text of a help page; paragraphs that differ between operating systems are left out."""
    body = page.partition('id="DisplayArea"')[2].partition('id="DonationFrame"')[0]
    paragraphs = re.findall(r"(?is)<p\b[^>]*>(.*?)</p>", body)
    plain = [part for part in paragraphs if "switchinline" not in part and "<img" not in part]
    return [" ".join(html.unescape(re.sub(r"<[^>]+>", "", part)).replace("\xad", "").split()) for part in plain]


def _is_plain(sentence: str) -> bool:
    num_words = len(sentence.split())
    if not NUM_WORDS[0] <= num_words <= NUM_WORDS[1] or len(sentence) > MAX_CHARACTERS:
        return False
    return PLAIN_SENTENCE.fullmatch(sentence) is not None and COMPOUND_CASE.search(sentence) is None


def _iter_raw(lang: str, packages: Iterable[Package]) -> Iterator[Sentence]:
    for package in packages:
        if package.name == HELP_PACKAGES[lang]:
            for _, data in iter_files(package.file, lambda name: HELP_PAGE.fullmatch(name) is not None):
                for paragraph in read_paragraphs(data.decode("utf-8", "replace")):
                    yield from (Sentence(text, HELP_LICENCE) for text in split_sentences(paragraph, lang))
        elif package.name == DIALOGUE_PACKAGE:
            for line in _iter_dialogue_lines(lang, package):
                yield from (Sentence(text, DIALOGUE_LICENCE) for text in split_sentences(line, lang))


def _iter_dialogue_lines(lang: str, package: Package) -> Iterator[str]:
    """English is in the script of every language; the German ones serve for both."""
    for _, data in iter_files(package.file, lambda name: name.endswith("/dialogs_de.lua")):
        for english, german in parse_dialogues(data.decode("utf-8", "replace")).values():
            yield english if lang == "en" else german


def _iter_held_out_keys() -> Iterator[str]:
    for line in Path(locate_bundled("german-test")).read_text(encoding="utf-8").splitlines():
        for paragraph in json.loads(line)["text"].split("\n"):
            yield from (compute_text_key(part) for part in BOUNDARY.split(paragraph))
