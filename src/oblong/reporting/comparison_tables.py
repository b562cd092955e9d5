"""Comparison -> rows -> tables for the terminal, Markdown and the HTML page.

Two tables: what each arm *learned and forgot* (one section per corpus, so that the arms stand under one another), and
what it *cost*. `outcome_sections` and `cost_rows` are pure; `render_comparison` and `render_markdown` only format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from oblong.records import ArmRun, Change, Comparison, Interval, RunStatus
from oblong.reporting.formats import (
    NOTHING,
    format_duration,
    format_interval,
    format_megabytes,
    format_parameters,
    format_share,
)

SEEDS_THAT_SHOW_VARIATION: Final = 3  # from here on the intervals count the spread between seeds too
OUTCOME_HEADINGS: Final = ("arm", "loss", "change", "against control", "KL to base")
WIDE: Final = 100  # columns that hold every interval beside its mean
COST_HEADINGS: Final = ("arm", "tensors", "trainable", "share", "moved", "training", "tokens/s", "peak RSS")


@dataclass(frozen=True, kw_only=True)
class OutcomeRow:
    """One arm on one corpus. Losses and KL in nats per token; intervals as recorded."""

    arm: str
    is_control: bool
    before: float
    after: float
    change: Interval
    against_control: Interval | None
    kl_to_base: float | None


@dataclass(frozen=True, kw_only=True)
class OutcomeSection:
    """One corpus: the base model's loss and every arm's row, in recipe order."""

    corpus: str
    new_domain: bool
    num_documents: int
    base_loss: float
    rows: tuple[OutcomeRow, ...]


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """What one arm trained and what that took; means over its seeds, the peak over them for memory."""

    arm: str
    is_control: bool
    num_seeds: int
    num_diverged: int
    num_tensors: int
    num_trainable: int
    share: float
    fraction_moved: float | None
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int


def outcome_sections(comparison: Comparison) -> tuple[OutcomeSection, ...]:
    """Rows per corpus: new domains first, then general text, each in the order of the base evaluation."""
    corpora = sorted(comparison.base.corpora.items(), key=lambda item: not item[1].new_domain)
    return tuple(
        OutcomeSection(
            corpus=name,
            new_domain=score.new_domain,
            num_documents=len(score.documents),
            base_loss=score.loss,
            rows=tuple(
                _outcome_row(comparison, change)
                for arm in comparison.arms
                for change in comparison.changes
                if change.corpus == name and change.arm == arm
            ),
        )
        for name, score in corpora
    )


def _outcome_row(comparison: Comparison, change: Change) -> OutcomeRow:
    runs = runs_of(comparison, change.arm)
    kls = [run.evaluation.corpora[change.corpus].kl for run in runs if change.corpus in run.evaluation.corpora]
    return OutcomeRow(
        arm=change.arm,
        is_control=change.arm == comparison.control,
        before=change.before,
        after=change.after,
        change=change.difference,
        against_control=change.against_control if change.arm != comparison.control else None,
        kl_to_base=_mean_or_none(kls),
    )


def cost_rows(comparison: Comparison) -> tuple[CostRow, ...]:
    """One row per arm, in recipe order."""
    return tuple(_cost_row(comparison, arm) for arm in comparison.arms)


def _cost_row(comparison: Comparison, arm: str) -> CostRow:
    arm_runs = runs_of(comparison, arm)
    runs = [arm_run.run for arm_run in arm_runs]
    drifts = [arm_run.evaluation.drift for arm_run in arm_runs]
    num_trainable = round(fmean(run.num_trainable for run in runs))
    return CostRow(
        arm=arm,
        is_control=arm == comparison.control,
        num_seeds=len(runs),
        num_diverged=sum(run.status is RunStatus.DIVERGED for run in runs),
        num_tensors=comparison.plans[arm].totals.num_tensors,
        num_trainable=num_trainable,
        share=num_trainable / runs[0].num_parameters,
        fraction_moved=_mean_or_none([drift.fraction_moved if drift else None for drift in drifts]),
        seconds=fmean(run.seconds for run in runs),
        tokens_per_second=fmean(run.tokens_per_second for run in runs),
        peak_memory_bytes=max(run.peak_memory_bytes for run in runs),
    )


def runs_of(comparison: Comparison, arm: str) -> tuple[ArmRun, ...]:
    """The runs of one arm, one per seed."""
    return tuple(run for run in comparison.runs if run.arm == arm)


def num_seeds(comparison: Comparison) -> int:
    """Seeds of the arm that has fewest."""
    return min(len(runs_of(comparison, arm)) for arm in comparison.arms)


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


# --- formatting ---------------------------------------------------------------------------------------------------


def outcome_cells(row: OutcomeRow) -> tuple[str, ...]:
    """The texts under OUTCOME_HEADINGS."""
    return (
        row.arm,
        f"{row.before:.4f} → {row.after:.4f}",
        format_interval(row.change),
        "control" if row.is_control else format_interval(row.against_control),
        NOTHING if row.kl_to_base is None else f"{row.kl_to_base:.4f}",
    )


def cost_cells(row: CostRow) -> tuple[str, ...]:
    """The texts under COST_HEADINGS."""
    diverged = f" ({row.num_diverged} of {row.num_seeds} diverged)" if row.num_diverged else ""
    return (
        row.arm + diverged,
        str(row.num_tensors),
        format_parameters(row.num_trainable),
        format_share(row.share),
        format_share(row.fraction_moved),
        format_duration(row.seconds),
        f"{row.tokens_per_second:,.0f}",
        format_megabytes(row.peak_memory_bytes),
    )


def section_cells(section: OutcomeSection) -> tuple[str, ...]:
    """The texts of the row that opens a section: corpus, kind, size."""
    kind = "new domain" if section.new_domain else "general"
    return (f"{section.corpus} ({kind})", "", f"{section.num_documents} documents", "", "")


def outcome_caption(comparison: Comparison) -> str:
    """How to read the first table."""
    confidences = {change.difference.confidence for change in comparison.changes}
    level = f"{100 * max(confidences):.0f} % " if confidences else ""
    over = "documents and seeds" if num_seeds(comparison) >= SEEDS_THAT_SHOW_VARIATION else "documents"
    return (
        f"Loss in nats per token, lower is better; [ ] are {level}bootstrap intervals over {over}. "
        f"The control is {comparison.control}. KL to base: how far the predictions moved."
    )


COST_CAPTION: Final = (
    "Trainable parameters and their share of the model; share of the trained weights that moved; "
    "training time and speed are means over seeds, memory the peak."
)


def render_comparison(comparison: Comparison, *, width: int = WIDE) -> list[Table]:
    """The two tables for a terminal, bold where an interval excludes zero; below WIDE columns intervals wrap."""
    narrow = width < WIDE
    learned = _rich_table("Learned and forgotten", OUTCOME_HEADINGS, outcome_caption(comparison), narrow=narrow)
    for section in outcome_sections(comparison):
        learned.add_row(*(_fit(cell, narrow) for cell in section_cells(section)), style="bold")
        for row in section.rows:
            cells = [_fit(cell, narrow) for cell in outcome_cells(row)]
            cells[2] = _bold_if(cells[2], row.change.excludes_zero)
            cells[3] = _bold_if(cells[3], row.against_control is not None and row.against_control.excludes_zero)
            learned.add_row(*cells)
        learned.add_section()
    hidden = {COST_HEADINGS.index("tokens/s")} if narrow else set()
    shown = [index for index in range(len(COST_HEADINGS)) if index not in hidden]
    cost = _rich_table("Cost", [COST_HEADINGS[index] for index in shown], COST_CAPTION, narrow=narrow)
    for cost_row in cost_rows(comparison):
        cells = list(cost_cells(cost_row))
        cost.add_row(*(escape(cells[index]) for index in shown))
    return [learned, cost]


def _fit(cell: str, narrow: bool) -> str:
    """Escape a cell; in a narrow terminal an interval stands under its mean, and a loss under the one before."""
    return escape(cell.replace(" [", "\n[").replace("→ ", "→\n") if narrow else cell)


def _rich_table(title: str, headings: Sequence[str], caption: str, *, narrow: bool) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0) if narrow else (0, 2, 0, 0)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", overflow="fold", no_wrap=not index)
    return table


def _bold_if(text: str, condition: bool) -> str:
    return f"[bold]{text}[/bold]" if condition else text


def render_markdown(comparison: Comparison) -> str:
    """Both tables as GitHub Markdown."""
    rows: list[Sequence[str]] = []
    for section in outcome_sections(comparison):
        rows.append([f"**{cell}**" if cell else "" for cell in map(_markdown_escape, section_cells(section))])
        rows += [[_markdown_escape(cell) for cell in outcome_cells(row)] for row in section.rows]
    costs = [[_markdown_escape(cell) for cell in cost_cells(row)] for row in cost_rows(comparison)]
    parts = (
        "### Learned and forgotten\n",
        _markdown_table(OUTCOME_HEADINGS, rows),
        _markdown_escape(outcome_caption(comparison)) + "\n",
        "### Cost\n",
        _markdown_table(COST_HEADINGS, costs),
        COST_CAPTION + "\n",
    )
    return "\n".join(parts)


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (headings, rule, *rows))


def _markdown_escape(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\`*_|[]<>" else character for character in text)
