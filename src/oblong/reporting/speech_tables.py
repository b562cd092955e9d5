"""A SpeechEvaluation as tables and sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.markup import escape
from rich.table import Table

from oblong.records import Ending, GroupScores, Interval, SpeechEvaluation, SpeechSet
from oblong.reporting.formats import NOTHING

ALL: Final = "all"
ENDINGS: Final = {
    Ending.LOOP: "stopped because the model repeated itself",
    Ending.LIMIT: "cut off at the limit of tokens",
    Ending.SILENT: "left out as silence",
    Ending.TOO_SHORT: "left out as too short to hold a word",
}
HEADINGS: Final = ("clips", "words", "WER [95 %]", "raw", "CER", "S", "D", "I", "length", "empty", "loops", "RTF")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRow:
    """A language of a set, or all of it. Rates are shares; `real_time_factor` is known for whole sets only."""

    set: str
    lang: str
    scores: GroupScores
    real_time_factor: float | None


def list_speech_rows(evaluation: SpeechEvaluation) -> tuple[SpeechRow, ...]:
    """For every set one row per language, and one for all of them where there are several."""
    return tuple(row for name, scored in evaluation.sets.items() for row in _list_set_rows(name, scored))


def _list_set_rows(name: str, scored: SpeechSet) -> Iterator[SpeechRow]:
    languages = scored.scores.languages
    several = len(languages) > 1
    for lang, scores in languages.items():
        yield SpeechRow(
            set=name, lang=lang, scores=scores, real_time_factor=None if several else scored.real_time_factor
        )
    if several:
        yield SpeechRow(set=name, lang=ALL, scores=scored.scores.corpus, real_time_factor=scored.real_time_factor)


def render_speech_evaluation(evaluation: SpeechEvaluation) -> Table:
    """Error rates in per cent of reference words (or characters), per set and language."""
    settings = evaluation.settings
    beams = "greedy" if settings.num_beams == 1 else f"{settings.num_beams} beams"
    table = Table(
        title=f"{escape(evaluation.model)}: {beams}, batch {settings.batch_size}, {settings.dtype}, {settings.device}",
        caption="WER, CER, S, D, I in %, normalised; raw: WER as written; length: words heard / words said; empty,"
        " loops: % of clips; RTF: seconds of decoding per second of audio",
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("set", overflow="fold")
    table.add_column("lang")
    for heading in HEADINGS:
        table.add_column(escape(heading), justify="right", no_wrap=True)
    for row in list_speech_rows(evaluation):
        table.add_row(*_render_row(row))
    return table


def describe_speech_evaluation(evaluation: SpeechEvaluation) -> list[str]:
    """What the table does not say: normalisers, what was cut or left out, what was skipped, the baseline."""
    normalisers = {
        lang: f"{lang}: {info.name} ({info.version})"
        for scored in evaluation.sets.values()
        for lang, info in scored.scores.normalisers.items()
    }
    scorers = {scored.scores.scorer for scored in evaluation.sets.values()}
    lines = [f"normalised with {'; '.join(normalisers.values())}; counted by {', '.join(sorted(scorers))}"]
    for name, scored in evaluation.sets.items():
        lines += [f"{name}: {sentence}" for sentence in _describe_set(scored, evaluation)]
    return lines


def _describe_set(scored: SpeechSet, evaluation: SpeechEvaluation) -> Iterator[str]:
    macro = scored.scores.macro_wer
    if len(scored.scores.languages) > 1 and macro is not None:
        yield f"mean WER of the languages {100 * macro:.1f} %"
    counts = Counter(ending for transcript in scored.transcripts for ending in transcript.endings)
    for ending, meaning in ENDINGS.items():
        if counts[ending]:
            yield f"{counts[ending]} window{'s' if counts[ending] != 1 else ''} {meaning}"
    corpus = scored.scores.corpus
    if corpus.num_empty_references:
        yield f"{corpus.num_empty_references} clips with nothing to recognise, {corpus.num_invented} answered with text"
    if scored.skipped:
        total = len(scored.skipped) + len(scored.transcripts)
        first = scored.skipped[0]
        yield f"{len(scored.skipped)} of {total} skipped, the first: {first.audio}: {first.reason}"
    if scored.against_baseline is not None and evaluation.baseline is not None:
        low_high = _format_range(scored.against_baseline)
        difference = f"{100 * scored.against_baseline.mean:+.1f} points [{low_high}]"
        yield f"WER against {evaluation.baseline.model}: {difference}"


def _render_row(row: SpeechRow) -> list[str]:
    scores = row.scores
    interval = "" if scores.word_interval is None else f" [{_format_range(scores.word_interval)}]"
    words = scores.words.num_reference
    parts = (scores.words.substitutions, scores.words.deletions, scores.words.insertions)
    return [
        escape(row.set),
        escape(row.lang),
        str(scores.num_utterances),
        f"{words:,}",
        escape(_format_percent(scores.wer) + interval),
        _format_percent(scores.wer_raw),
        _format_percent(scores.cer),
        *(_format_percent(count / words if words else None) for count in parts),
        NOTHING if scores.length_ratio is None else f"{scores.length_ratio:.2f}",
        _format_percent(scores.empty_rate),
        _format_percent(scores.loop_rate),
        NOTHING if row.real_time_factor is None else f"{row.real_time_factor:.3f}",
    ]


def _format_percent(rate: float | None) -> str:
    return NOTHING if rate is None else f"{100 * rate:.1f}"


def _format_range(interval: Interval) -> str:
    return f"{100 * interval.low:.1f}, {100 * interval.high:.1f}"
