from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from oblong.errors import DataError
from oblong.evaluation import bootstrap_ratio, score_transcripts, score_utterance
from oblong.evaluation.wer import bootstrap_wer_difference, count_character_errors, count_word_errors
from oblong.records import ErrorCounts
from tests.tolerances import INTERVAL_AGAINST_FORMULA, INTERVAL_ARITHMETIC


def test_words_are_aligned_with_the_fewest_edits() -> None:
    # the=the, cat=cat, sat->sit, on=on, the->mat, mat=mat, and "now" is one too many.
    counts = count_word_errors("the cat sat on the mat", "the cat sit on mat mat now")
    assert counts == ErrorCounts(hits=4, substitutions=2, deletions=0, insertions=1)
    assert (counts.num_reference, counts.num_hypothesis, counts.rate) == (6, 7, 0.5)


def test_characters_count_the_spaces_between_words() -> None:
    # "a bc" has four characters; the space is deleted.
    assert count_character_errors("a bc", "abc") == ErrorCounts(hits=3, deletions=1)


def test_the_rate_is_one_of_totals_not_a_mean_of_rates() -> None:
    # 1 error of 1 word and 0 of 9: 0.1; the mean of the two rates would be 0.5.
    scores = score_transcripts(
        ["yes", "one by one they went away and that was"], ["no", "one by one they went away and that was"], ["xx"] * 2
    )
    assert scores.corpus.wer == 0.1


def test_case_and_punctuation_count_only_as_written() -> None:
    errors = score_utterance("Hello, World!", "hello world", "en")
    assert errors.words == ErrorCounts(hits=2)
    assert errors.words_raw == ErrorCounts(substitutions=2)
    assert errors.characters_raw.errors == 4  # H, comma, W, exclamation mark


def test_an_accent_written_in_two_characters_is_no_error() -> None:
    assert score_utterance("schön", "scho\u0308n", "de").characters_raw.errors == 0


def test_white_space_of_any_kind_separates_words() -> None:
    assert score_utterance("one two three", "one\ttwo\n three ", "en").words_raw == ErrorCounts(hits=3)


def test_an_empty_reference_counts_with_what_was_invented() -> None:
    # "Um." is nothing after normalising. Two invented words against two said ones: 100 %.
    scores = score_transcripts(["Um.", "", "good day"], ["thank you", "", "good day"], ["en"] * 3, num_resamples=0)
    assert scores.corpus.words == ErrorCounts(hits=2, insertions=2)
    assert scores.corpus.wer == 1.0
    assert (scores.corpus.num_empty_references, scores.corpus.num_invented) == (2, 1)
    assert scores.corpus.empty_rate == 0.0


def test_with_nothing_said_there_is_no_rate() -> None:
    scores = score_transcripts([""], ["thank you"], ["en"])
    assert scores.corpus.wer is None
    assert scores.corpus.cer is None
    assert scores.corpus.length_ratio is None
    assert scores.corpus.empty_rate is None
    assert scores.corpus.word_interval is None
    assert scores.macro_wer is None


def test_each_language_has_its_own_rate_and_normaliser() -> None:
    references = ["the colour is twenty one", "sehr schön", "gut so"]
    hypotheses = ["the color is 21", "sehr schon", "gut so"]
    scores = score_transcripts(references, hypotheses, ["en", "de", "de"])
    assert list(scores.languages) == ["de", "en"]
    assert scores.languages["en"].wer == 0.0
    assert scores.languages["de"].wer == 0.25
    assert scores.macro_wer == 0.125
    assert scores.corpus.wer == pytest.approx(1 / 8)
    assert scores.normalisers["en"].name == "whisper-english"
    assert scores.normalisers["de"].name == "whisper-basic"
    assert scores.scorer.startswith("jiwer ")


def test_empty_answers_loops_and_lengths_are_reported() -> None:
    references = ["say it again please", "no no no no no no", "stop it"]
    hypotheses = ["", "no no no no no no", "stop it okay okay okay okay okay okay"]
    scores = score_transcripts(references, hypotheses, ["en"] * 3, num_resamples=0).corpus
    assert scores.empty_rate == pytest.approx(1 / 3)
    assert scores.num_loops == 1  # the second is what was said
    assert scores.loop_rate == pytest.approx(1 / 3)
    assert scores.length_ratio == pytest.approx(14 / 12)


def test_the_interval_of_equal_utterances_is_students() -> None:
    # Ten words each: the rate is a mean, so the interval is t(n - 1) * s / sqrt(n) / 10.
    errors = [0, 1, 3, 2, 0, 4]
    interval = bootstrap_ratio(errors, [10] * 6)
    margin = float(stats.t.ppf(0.975, 5)) * float(np.std(errors, ddof=1)) / math.sqrt(6) / 10
    assert interval.mean == pytest.approx(10 / 60, rel=INTERVAL_ARITHMETIC)
    assert interval.high - interval.mean == pytest.approx(margin, rel=INTERVAL_AGAINST_FORMULA)


def test_an_interval_needs_two_utterances_with_words() -> None:
    with pytest.raises(DataError, match="two units that are not empty"):
        bootstrap_ratio([1, 2, 3], [0, 0, 5])
    # Resamples that drew empty references only are left out instead of dividing by zero.
    interval = bootstrap_ratio([0, 1, 2], [0, 5, 5])
    assert math.isfinite(interval.low)


def test_two_systems_are_compared_on_the_same_utterances() -> None:
    references = ["one two", "three four", "five six"] * 4
    ours = [score_utterance(text, text, "xx") for text in references]
    theirs = [score_utterance(text, "one six", "xx") for text in references]
    difference = bootstrap_wer_difference(ours, theirs)
    assert difference is not None
    # Of every 6 words they get 1 + 2 + 1 wrong, we none.
    assert difference.mean == pytest.approx(-4 / 6)
    assert difference.excludes_zero
    with pytest.raises(DataError, match="same references"):
        bootstrap_wer_difference(ours, ours[::-1][:2])


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(DataError, match="cannot score 1 hypotheses in 2 languages against 2 references"):
        score_transcripts(["a", "b"], ["a"], ["en", "en"])
    with pytest.raises(DataError, match="no transcript"):
        score_transcripts([], [], [])


def test_a_loop_that_was_stopped_counts_unless_the_speaker_repeats_as_well() -> None:
    chant = "no " * 20
    assert score_utterance("go on", "go on", "en", stopped_in_loop=True).loop
    assert not score_utterance(chant, "no", "en", stopped_in_loop=True).loop
