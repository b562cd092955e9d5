from __future__ import annotations

import io

from rich.console import Console

from oblong.records import Interval
from oblong.reporting.evaluation_tables import (
    CorpusRow,
    describe_columns,
    describe_drift,
    list_corpus_rows,
    render_evaluation,
)
from tests.report_builders import NEW_DOMAIN, make_evaluation, make_interval


def test_rows_hold_the_records_numbers() -> None:
    evaluation = make_evaluation("arm", {NEW_DOMAIN: 2.5, "english prose": 3.5}, num_documents=4, drift=False)
    intervals = {NEW_DOMAIN: make_interval(2.5)}
    german, english = list_corpus_rows(evaluation, intervals)
    assert isinstance(german, CorpusRow)
    assert (german.new_domain, german.num_documents, german.num_tokens, german.loss) == (True, 4, 800, 2.5)
    assert (german.interval, english.interval) == (intervals[NEW_DOMAIN], None)
    assert english.perplexity == evaluation.corpora["english prose"].perplexity
    assert english.kl == 0.0


def test_the_caption_speaks_of_intervals_only_where_there_are_any() -> None:
    evaluation = make_evaluation("arm", {NEW_DOMAIN: 2.5})
    assert "interval" not in describe_columns(list_corpus_rows(evaluation, {}))
    with_interval = list_corpus_rows(evaluation, {NEW_DOMAIN: make_interval(2.5, confidence=0.9)})
    assert "90% interval over documents" in describe_columns(with_interval)


def test_drift_is_one_sentence() -> None:
    evaluation = make_evaluation("arm", {NEW_DOMAIN: 2.5})
    assert describe_drift(evaluation) == (
        "43 tensors changed; 93.0% of their 10,600,000 parameters moved, relative change 0.011"
    )
    assert describe_drift(make_evaluation("base", {NEW_DOMAIN: 2.5}, drift=False)) is None
    assert evaluation.drift is not None
    diverged = evaluation.model_copy(update={"drift": evaluation.drift.model_copy(update={"relative_change": None})})
    assert (describe_drift(diverged) or "").endswith("relative change not a finite number")


def test_the_table_prints_brackets_and_names_as_they_are() -> None:
    evaluation = make_evaluation("[red]arm", {"[b]corpus": 2.5})
    console = Console(width=100, record=True, file=io.StringIO())
    interval = Interval(mean=2.5, low=2.4, high=2.6, num_resamples=10)
    console.print(render_evaluation(evaluation, {"[b]corpus": interval}))
    text = console.export_text()
    assert "[red]arm" in text
    assert "[b]corpus" in text
    assert "2.5000 [2.400, 2.600]" in text
