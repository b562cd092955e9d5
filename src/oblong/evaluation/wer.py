"""Word and character error rates of transcripts, raw and normalised, per language, with intervals.

    WER = (S + D + I) / N      S, D, I: substitutions, deletions and insertions of a minimum edit alignment, summed over
                               all utterances; N: words of all references

The rate is one of totals, not a mean of utterances' rates. An utterance without a reference word (silence, or "uhm"
after normalising) has nothing to divide by but counts with its insertions, so that a model which invents text is not
let off. CER counts characters, the spaces between words among them. Utterances are what the intervals resample; two
utterances of one speaker count as independent, which makes the intervals somewhat short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from importlib import metadata
from operator import add
from typing import Any, Final

from oblong.errors import DataError, MissingExtraError
from oblong.evaluation.loops import is_looping
from oblong.evaluation.normalise import choose_normaliser, tidy
from oblong.evaluation.statistics import bootstrap_ratio
from oblong.records import ErrorCounts, GroupScores, Interval, TranscriptScores, UtteranceErrors

EXTRA: Final = "speech"
Unit = Callable[[UtteranceErrors], ErrorCounts]


def score_transcripts(
    references: Sequence[str],
    hypotheses: Sequence[str],
    langs: Sequence[str],
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> TranscriptScores:
    """Score `D` transcripts.

    Args:
        references: what was said; may be empty.
        hypotheses: what was recognised.
        langs: the language of each, which decides the normaliser.
        num_resamples: of the intervals; 0 computes none.
        seed: of the resampling.

    Raises:
        DataError: no transcripts, or not as many hypotheses or languages as references.
        MissingExtraError: jiwer is not installed.
    """
    if not len(references) == len(hypotheses) == len(langs):
        raise DataError(
            f"cannot score {len(hypotheses)} hypotheses in {len(langs)} languages against {len(references)} references:"
            " give one of each per utterance"
        )
    utterances = [score_utterance(*each) for each in zip(references, hypotheses, langs, strict=True)]
    return summarise_errors(utterances, langs, num_resamples=num_resamples, seed=seed)


def score_utterance(reference: str, hypothesis: str, lang: str, *, stopped_in_loop: bool = False) -> UtteranceErrors:
    """Count the errors of one transcript.

    Args:
        reference: what was said.
        hypothesis: what was recognised.
        lang: which decides the normaliser.
        stopped_in_loop: decoding ended because the model repeated itself; the hypothesis then holds one round of it,
            and does not tell.

    Raises:
        MissingExtraError: jiwer is not installed.
    """
    normalise = choose_normaliser(lang)
    said, heard = tidy(reference), tidy(hypothesis)
    said_normalised, heard_normalised = normalise(reference), normalise(hypothesis)
    return UtteranceErrors(
        words=count_word_errors(said_normalised, heard_normalised),
        words_raw=count_word_errors(said, heard),
        characters=count_character_errors(said_normalised, heard_normalised),
        characters_raw=count_character_errors(said, heard),
        loop=(stopped_in_loop or is_looping(heard)) and not is_looping(said),
    )


def summarise_errors(
    utterances: Sequence[UtteranceErrors], langs: Sequence[str], *, num_resamples: int = 10_000, seed: int = 0
) -> TranscriptScores:
    """Totals of utterances that were counted one by one, over all of them and per language; languages are sorted.

    Raises:
        DataError: there is no utterance.
    """
    if not utterances:
        raise DataError("there is no transcript to score")
    summarise = partial(_summarise_group, num_resamples=num_resamples, seed=seed)
    pairs = list(zip(utterances, langs, strict=True))
    corpus = summarise(utterances)
    languages = {name: [errors for errors, lang in pairs if lang == name] for name in sorted(set(langs))}
    return TranscriptScores(
        corpus=corpus,
        languages={name: corpus if len(languages) == 1 else summarise(members) for name, members in languages.items()},
        normalisers={name: choose_normaliser(name).info for name in languages},
        scorer=f"jiwer {metadata.version('jiwer')}",
    )


def bootstrap_wer_difference(
    utterances: Sequence[UtteranceErrors],
    others: Sequence[UtteranceErrors],
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Interval | None:
    """Normalised WER of one system minus that of another, paired over the same `D` utterances; None if too few.

    Raises:
        DataError: the two do not cover the same references.
    """
    sizes = [each.words.num_reference for each in utterances]
    if sizes != [each.words.num_reference for each in others]:
        raise DataError("cannot pair the two transcripts: they do not cover the same references in the same order")
    differences = [ours.words.errors - theirs.words.errors for ours, theirs in zip(utterances, others, strict=True)]
    if sum(size > 0 for size in sizes) < 2:
        return None
    return bootstrap_ratio(differences, sizes, num_resamples=num_resamples, seed=seed)


def count_word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Align two texts word by word; words are what stands between spaces."""
    return _count(_import_jiwer().process_words(reference, hypothesis))


def count_character_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Align two texts character by character, spaces included."""
    return _count(_import_jiwer().process_characters(reference, hypothesis))


def _count(alignment: Any) -> ErrorCounts:
    return ErrorCounts(
        hits=alignment.hits,
        substitutions=alignment.substitutions,
        deletions=alignment.deletions,
        insertions=alignment.insertions,
    )


def _import_jiwer() -> Any:
    try:
        import jiwer
    except ImportError as error:
        raise MissingExtraError("counting word errors", EXTRA) from error
    return jiwer


def _summarise_group(utterances: Sequence[UtteranceErrors], *, num_resamples: int, seed: int) -> GroupScores:
    empty = [errors for errors in utterances if not errors.words.num_reference]
    spoken = [errors for errors in utterances if errors.words.num_reference]
    interval = partial(_find_interval, utterances, num_resamples=num_resamples, seed=seed)
    return GroupScores(
        num_utterances=len(utterances),
        words=_total(utterances, lambda errors: errors.words),
        words_raw=_total(utterances, lambda errors: errors.words_raw),
        characters=_total(utterances, lambda errors: errors.characters),
        characters_raw=_total(utterances, lambda errors: errors.characters_raw),
        word_interval=interval(lambda errors: errors.words),
        word_raw_interval=interval(lambda errors: errors.words_raw),
        character_interval=interval(lambda errors: errors.characters),
        character_raw_interval=interval(lambda errors: errors.characters_raw),
        num_empty_references=len(empty),
        num_invented=sum(errors.words.num_hypothesis > 0 for errors in empty),
        num_empty_hypotheses=sum(errors.words.num_hypothesis == 0 for errors in spoken),
        num_loops=sum(errors.loop for errors in utterances),
    )


def _total(utterances: Sequence[UtteranceErrors], unit: Unit) -> ErrorCounts:
    return reduce(add, map(unit, utterances), ErrorCounts())


def _find_interval(
    utterances: Sequence[UtteranceErrors], unit: Unit, *, num_resamples: int, seed: int
) -> Interval | None:
    counts = [unit(errors) for errors in utterances]
    if num_resamples == 0 or sum(count.num_reference > 0 for count in counts) < 2:
        return None
    sizes = [count.num_reference for count in counts]
    interval = bootstrap_ratio([count.errors for count in counts], sizes, num_resamples=num_resamples, seed=seed)
    # The interval is symmetric; a rate is not negative, and cutting there loses no coverage.
    return interval.model_copy(update={"low": max(0.0, interval.low)})
