"""Whether texts are in the language that their manifest says, by counting function words.

A heuristic, and told so: it knows seven languages, judges a manifest as a whole and speaks up only where the evidence
is overwhelming. It catches the manifest of another language under the right name, not single strangers.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from oblong.corpora.speech.utterance import Utterance
from oblong.errors import DataError

# Frequent and, together, distinctive; a word may belong to two.
FUNCTION_WORDS: Final[Mapping[str, frozenset[str]]] = {
    lang: frozenset(words.split())
    for lang, words in {
        "en": "the and of is you your with that this are have from be was it not",
        "de": "der die das und ist nicht ein eine mit zu den auf sie ich für von werden wir",
        "nl": "het een van niet ik je dat op zijn maar naar ook wat wij deze dit",
        "fr": "le les des et est une pour vous dans pas avec sur votre du au ce",
        "es": "el los las es una por para con del como está usted lo su al",
        "it": "il che di non una per con è gli della sono nel lo si ma",
        "ru": "и в не на что вы для с это по из как ваш вас",  # noqa: RUF001
    }.items()
}
MIN_HITS: Final = 40
MARGIN: Final = 4
WORD: Final = re.compile(r"[^\W\d_]+")


def check_language(utterances: Iterable[Utterance], place: str) -> None:
    """Refuse utterances whose texts are evidently in another language than their `lang` says.

    Raises:
        DataError: the function words of another language occur at least 40 times, and four times as often as those of
            the language that is claimed.
    """
    by_lang: dict[str, list[str]] = defaultdict(list)
    for utterance in utterances:
        by_lang[utterance.lang].append(utterance.text)
    for lang, texts in by_lang.items():
        if (other := find_other_language(lang, texts)) is not None:
            raise DataError(
                f"{place}: the texts that field 'lang' calls {lang!r} read like {other!r} (judged by their most "
                f"frequent words): give the manifest of the right language, or correct 'lang'"
            )


def find_other_language(lang: str, texts: Iterable[str]) -> str | None:
    """The language that texts evidently are in instead of `lang`; None where there is no strong evidence."""
    if lang not in FUNCTION_WORDS:
        return None
    hits = count_function_words(texts)
    best = max(hits, key=lambda name: hits[name])
    return best if hits[best] >= max(MIN_HITS, MARGIN * hits[lang]) and best != lang else None


def count_function_words(texts: Iterable[str]) -> dict[str, int]:
    """How many words of the texts are function words of each known language."""
    words = Counter(word for text in texts for word in WORD.findall(text.lower()))
    return {lang: sum(words[word] for word in known) for lang, known in FUNCTION_WORDS.items()}
