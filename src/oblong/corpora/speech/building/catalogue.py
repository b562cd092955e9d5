"""The sets that `oblong speech fetch-data` builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from oblong.corpora.speech.building.context import BuildContext
from oblong.corpora.speech.building.human_sets import (
    build_dialogues_nl,
    build_letters,
    build_prompts,
    list_prompt_packages,
)
from oblong.corpora.speech.building.synthesis import build_synthetic, list_text_packages
from oblong.corpora.speech.utterance import HUMAN, SYNTHETIC, Utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSet:
    """A set of utterances that can be built.

    Attributes:
        name: for `--only` and of its manifests, NAME-train.jsonl and NAME-test.jsonl.
        title: what it is, in words.
        kind: `human` or `synthetic`.
        lang: of a synthetic set, for its sentences; empty otherwise.
        human_packages: the Debian packages of a human set.
        build: makes the clips and describes them.
        in_quick: whether the quick build has it.
    """

    name: str
    title: str
    kind: str
    build: Callable[[BuildContext], list[Utterance]]
    lang: str = ""
    human_packages: tuple[str, ...] = ()
    in_quick: bool = False

    def list_packages(self, *, quick: bool) -> tuple[str, ...]:
        """The Debian packages with its sounds or texts."""
        return list_text_packages(self.lang, quick=quick) if self.kind == SYNTHETIC else self.human_packages


def _prompts(lang: str, language: str, *, in_quick: bool = False) -> SpeechSet:
    return SpeechSet(
        name=f"prompts-{lang}",
        title=f"voice prompts of a telephone exchange, {language}",
        kind=HUMAN,
        build=partial(build_prompts, lang=lang),
        human_packages=list_prompt_packages(lang),
        in_quick=in_quick,
    )


def _synthetic(lang: str, language: str) -> SpeechSet:
    return SpeechSet(
        name=f"synthetic-{lang}",
        title=f"synthesised {language}",
        kind=SYNTHETIC,
        build=partial(build_synthetic, lang=lang),
        lang=lang,
        in_quick=True,
    )


SETS: Final[Mapping[str, SpeechSet]] = {
    item.name: item
    for item in (
        _prompts("en", "English", in_quick=True),
        _synthetic("en", "English"),
        _synthetic("de", "German"),
        _prompts("fr", "French"),
        _prompts("ru", "Russian"),
        SpeechSet(
            name="dialogues-nl",
            title="dialogues of a game, Dutch, acted",
            kind=HUMAN,
            build=build_dialogues_nl,
            human_packages=("fillets-ng-data", "fillets-ng-data-nl"),
        ),
        SpeechSet(
            name="letters",
            title="letters and syllables in six languages",
            kind=HUMAN,
            build=build_letters,
            human_packages=("klettres-data",),
        ),
    )
}
