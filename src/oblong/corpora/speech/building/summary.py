"""What a folder of speech sets holds, one row for each manifest and language."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from oblong.corpora.speech.utterance import Utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """The utterances of one language in one manifest; `seconds` is of those that were measured."""

    manifest: str
    lang: str
    num_utterances: int
    seconds: float
    num_speakers: int
    kind: str


def summarise_manifest(name: str, utterances: Iterable[Utterance]) -> list[ManifestRow]:
    """One row per language, in the order of the codes."""
    by_lang: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_lang[utterance.lang].append(utterance)
    return [_make_row(name, lang, by_lang[lang]) for lang in sorted(by_lang)]


def _make_row(name: str, lang: str, utterances: Sequence[Utterance]) -> ManifestRow:
    return ManifestRow(
        manifest=name,
        lang=lang,
        num_utterances=len(utterances),
        seconds=sum(utterance.duration or 0.0 for utterance in utterances),
        num_speakers=len({utterance.speaker for utterance in utterances}),
        kind=", ".join(sorted({utterance.kind for utterance in utterances if utterance.kind})),
    )
