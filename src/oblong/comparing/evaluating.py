"""The Evaluation of a finished run, as its job asks for it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from oblong.comparing.jobs import Job, LossChanges
from oblong.corpora import Documents, read_documents
from oblong.evaluation.evaluate import Corpus, evaluate
from oblong.records import CorpusScore, Evaluation, Provenance
from oblong.tuning.workspace import DELTA_DIRECTORY


def evaluate_run(
    job: Job,
    corpora: Sequence[Corpus],
    run: Path,
    *,
    has_divergence: bool,
    suite: Sequence[str],
    changes: LossChanges | None,
) -> Evaluation:
    """Evaluate the base with a run's delta on it.

    Args:
        job: whose model, window and dtype count.
        corpora: held-out texts.
        run: a finished tuning run.
        has_divergence: whether to measure KL(base || tuned), too.
        suite: questions to answer.
        changes: of the last evaluated state, for whoever watches.

    Raises:
        NonFinitePredictionError: the model predicts NaN or infinity.
    """
    return evaluate(
        job.model,
        corpora,
        delta=run / DELTA_DIRECTORY,
        base=job.model if has_divergence else None,
        suite=suite,
        suite_limit=job.suite_limit,
        name=job.arm,
        window=job.window,
        stride=job.stride,
        dtype=job.dtype,
        threads=job.threads,
        on_progress=lambda done, total: job.report("evaluating", done, total, changes=changes),
    )


def describe_scores(job: Job, name: str, scores: Mapping[str, CorpusScore], *, started: float) -> Evaluation:
    """The Evaluation of scores that were computed with a job's settings since `started`, of `time.perf_counter`."""
    return Evaluation(
        name=name,
        model=job.model,
        window=job.window,
        stride=job.stride,
        dtype=job.dtype,
        corpora=scores,
        seconds=time.perf_counter() - started,
        provenance=Provenance.here(),
    )


def read_corpora(job: Job) -> list[Corpus]:
    """The held-out texts, cut as the recipe says."""
    corpora = []
    for name, spec in job.corpora.items():
        documents = read_documents(spec.data, text_field=spec.text_field, limit=spec.documents, name=name)
        if spec.characters is not None:
            texts = tuple(text[: spec.characters] for text in documents.texts)
            documents = Documents(name=name, source=documents.source, texts=texts)
        corpora.append(Corpus(documents=documents, new_domain=spec.new_domain))
    return corpora
