"""An Evaluation as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich import box
from rich.markup import escape
from rich.table import Table

from oblong.records import Evaluation, Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusRow:
    """One corpus: loss and KL in nats per token; `interval` is null where a corpus has too few documents for one."""

    corpus: str
    new_domain: bool
    num_documents: int
    num_tokens: int
    loss: float
    interval: Interval | None
    perplexity: float
    bits_per_byte: float
    kl: float | None


def list_corpus_rows(evaluation: Evaluation, intervals: Mapping[str, Interval]) -> tuple[CorpusRow, ...]:
    """One row per corpus, in order; `intervals` are those of the losses, by corpus."""
    return tuple(
        CorpusRow(
            corpus=name,
            new_domain=score.new_domain,
            num_documents=len(score.documents),
            num_tokens=score.num_tokens,
            loss=score.loss,
            interval=intervals.get(name),
            perplexity=score.perplexity,
            bits_per_byte=score.bits_per_byte,
            kl=score.kl,
        )
        for name, score in evaluation.corpora.items()
    )


def render_evaluation(evaluation: Evaluation, intervals: Mapping[str, Interval]) -> Table:
    """The corpora of an Evaluation."""
    rows = list_corpus_rows(evaluation, intervals)
    table = Table(
        title=f"evaluation {escape(evaluation.name)} of {escape(evaluation.model)}: context {evaluation.window}, stride"
        f" {evaluation.stride}, {evaluation.dtype}",
        caption=describe_columns(rows),
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("corpus", overflow="fold")
    for heading in ("docs", "tokens", "loss", "perplexity", "bits/byte", "KL"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_render_row(row))
    return table


def describe_columns(rows: tuple[CorpusRow, ...]) -> str:
    """Units, and what the interval is."""
    confidences = {row.interval.confidence for row in rows if row.interval is not None}
    interval = f", with its {min(confidences):.0%} interval over documents," if confidences else ""
    return f"loss{interval} and KL(base || model) in nats per token"


def describe_answers(evaluation: Evaluation) -> tuple[str, ...]:
    """Who answered each text, of a model with added modules: a sentence per corpus."""
    return tuple(
        f"{name} was answered by {', '.join(f'{part} {share:.0%}' for part, share in score.answered.items())}"
        for name, score in evaluation.corpora.items()
        if score.answered
    )


def describe_drift(evaluation: Evaluation) -> str | None:
    """One sentence on how far the weights moved; null where that was not measured."""
    drift = evaluation.drift
    if drift is None:
        return None
    if drift.num_changed_tensors == 0:
        return "no tensor of the base changed"
    relative = "not a finite number" if drift.relative_change is None else f"{drift.relative_change:.3g}"
    return (
        f"{drift.num_changed_tensors} tensors changed; {drift.fraction_moved:.1%} of their"
        f" {drift.num_parameters_in_changed:,} parameters moved, relative change {relative}"
    )


def _render_row(row: CorpusRow) -> list[str]:
    interval = "" if row.interval is None else f" [{row.interval.low:.3f}, {row.interval.high:.3f}]"
    return [
        escape(row.corpus) + (" (new)" if row.new_domain else ""),
        str(row.num_documents),
        f"{row.num_tokens:,}",
        escape(f"{row.loss:.4f}{interval}"),
        f"{row.perplexity:.2f}",
        f"{row.bits_per_byte:.4f}",
        "" if row.kl is None else f"{row.kl:.4f}",
    ]
