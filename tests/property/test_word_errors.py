"""What holds for every alignment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oblong.evaluation.wer import count_character_errors, count_word_errors, score_utterance, summarise_errors

WORDS = st.lists(st.sampled_from(["ja", "nein", "schön", "schon", "okay", "21", "zwei"]), max_size=8).map(" ".join)


@given(WORDS, WORDS)
def test_counts_add_up_to_the_lengths(reference: str, hypothesis: str) -> None:
    words = count_word_errors(reference, hypothesis)
    assert words.num_reference == len(reference.split())
    assert words.num_hypothesis == len(hypothesis.split())
    characters = count_character_errors(reference, hypothesis)
    assert characters.num_reference == len(reference)
    assert characters.num_hypothesis == len(hypothesis)


@given(WORDS, WORDS)
def test_exchanging_the_texts_exchanges_deletions_and_insertions(reference: str, hypothesis: str) -> None:
    there, back = count_word_errors(reference, hypothesis), count_word_errors(hypothesis, reference)
    assert there.errors == back.errors
    assert there.deletions - there.insertions == back.insertions - back.deletions


@given(WORDS, WORDS)
def test_the_distance_is_bounded_by_the_lengths(reference: str, hypothesis: str) -> None:
    counts = count_word_errors(reference, hypothesis)
    shorter, longer = sorted((counts.num_reference, counts.num_hypothesis))
    assert longer - shorter <= counts.errors <= longer
    assert (counts.errors == 0) == (reference == hypothesis)


@given(st.lists(st.tuples(WORDS, WORDS, st.sampled_from(["de", "en"])), min_size=1, max_size=6))
def test_languages_add_up_to_the_whole(rows: list[tuple[str, str, str]]) -> None:
    scores = summarise_errors([score_utterance(*row) for row in rows], [lang for *_, lang in rows], num_resamples=0)
    assert sum(group.words.errors for group in scores.languages.values()) == scores.corpus.words.errors
    assert sum(group.num_utterances for group in scores.languages.values()) == scores.corpus.num_utterances
