"""Comparison -> rows -> tables for the terminal, Markdown and the HTML page.

Two tables: what each arm *learned and forgot* (one section per corpus, so that the arms stand under one another), and
what it *cost*. `outcome_sections` and `cost_rows` are pure; `render_comparison` and `render_markdown` only format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from rich.markup import escape
from rich.table import Table

from oblong.records import Change, Comparison, Interval, RunStatus
from oblong.reporting.arms import (
    DATA_FREE_NOTE,
    SEEDS_THAT_SHOW_VARIATION,
    is_data_free,
    num_seeds,
    rate_of,
    runs_of,
)
from oblong.reporting.formats import (
    NOTHING,
    format_duration,
    format_interval,
    format_megabytes,
    format_parameters,
    format_rate,
    format_share,
    format_yes,
)
from oblong.reporting.noise_floors import explain_noise_mark, find_noise_floor, is_below_noise, mark_noise
from oblong.reporting.table_layout import bold_if, choose_table, escape_markdown, fold_cell, make_table, markdown_table

OUTCOME_HEADINGS: Final = ("arm", "data-free", "loss", "change", "against control", "KL to base")
WIDE: Final = 120  # columns
COST_HEADINGS: Final = (
    *("arm", "data-free", "tensors", "trainable", "share", "moved", "training", "tokens/s", "peak RSS"),
)


@dataclass(frozen=True, kw_only=True)
class OutcomeRow:
    """One arm on one corpus. Losses and KL in nats per token; intervals as recorded."""

    arm: str
    is_control: bool
    data_free: bool | None
    before: float
    after: float
    change: Interval
    against_control: Interval | None
    kl_to_base: float | None
    noise_floor: float = 0.0

    @property
    def is_changed(self) -> bool:
        """Whether the change from the base is worth a claim."""
        return self.change.excludes_zero and not is_below_noise(self.change, self.noise_floor)

    @property
    def is_different(self) -> bool:
        """Whether the difference to the control, taken by itself, is."""
        gap = self.against_control
        return gap is not None and gap.excludes_zero and not is_below_noise(gap, self.noise_floor)


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
    """What one arm trained and what that took; means over its seeds, the peak over them for memory.

    The time of a sequence is that of all its tasks; each of its trainings counts as a run.

    Of a sweep, at the learning rate that the other table shows; `num_diverged` counts over all rates.
    """

    arm: str
    is_control: bool
    data_free: bool | None
    num_runs: int
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
        data_free=is_data_free(comparison, change.arm),
        before=change.before,
        after=change.after,
        change=change.difference,
        against_control=change.against_control if change.arm != comparison.control else None,
        kl_to_base=_mean_or_none(kls),
        noise_floor=find_noise_floor(comparison, [change.corpus]),
    )


def cost_rows(comparison: Comparison) -> tuple[CostRow, ...]:
    """One row per arm, in recipe order."""
    return tuple(_cost_row(comparison, arm) for arm in comparison.arms)


def _cost_row(comparison: Comparison, arm: str) -> CostRow:
    arm_runs = runs_of(comparison, arm)
    runs = [run for arm_run in arm_runs for run in arm_run.runs]
    all_runs = [run for arm_run in comparison.runs if arm_run.arm == arm for run in arm_run.runs]
    drifts = [arm_run.evaluation.drift for arm_run in arm_runs]
    num_trainable = round(fmean(run.num_trainable for run in runs))
    return CostRow(
        arm=arm,
        is_control=arm == comparison.control,
        data_free=is_data_free(comparison, arm),
        num_runs=len(all_runs),
        num_diverged=sum(run.status is RunStatus.DIVERGED for run in all_runs),
        num_tensors=comparison.plans[arm].totals.num_tensors,
        num_trainable=num_trainable,
        share=num_trainable / runs[0].num_parameters,
        fraction_moved=_mean_or_none([drift.fraction_moved if drift else None for drift in drifts]),
        seconds=sum(run.seconds for run in runs) / len(arm_runs),
        tokens_per_second=fmean(run.tokens_per_second for run in runs),
        peak_memory_bytes=max(run.peak_memory_bytes for run in runs),
    )


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


# --- formatting ---------------------------------------------------------------------------------------------------


def outcome_cells(row: OutcomeRow) -> tuple[str, ...]:
    """The texts under OUTCOME_HEADINGS."""
    return (
        row.arm,
        format_yes(row.data_free),
        f"{row.before:.4f} → {row.after:.4f}",
        mark_noise(format_interval(row.change), row.change, row.noise_floor),
        "control"
        if row.is_control
        else mark_noise(format_interval(row.against_control), row.against_control, row.noise_floor),
        NOTHING if row.kl_to_base is None else f"{row.kl_to_base:.4f}",
    )


def cost_cells(row: CostRow) -> tuple[str, ...]:
    """The texts under COST_HEADINGS."""
    diverged = f" ({row.num_diverged} of {row.num_runs} diverged)" if row.num_diverged else ""
    return (
        row.arm + diverged,
        format_yes(row.data_free),
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
    return (f"{section.corpus} ({kind})", "", "", f"{section.num_documents} documents", "", "")


def outcome_caption(comparison: Comparison, headings: Sequence[str] = OUTCOME_HEADINGS) -> str:
    """How to read the first table."""
    confidences = {change.difference.confidence for change in comparison.changes}
    level = f"{100 * max(confidences):.0f} % " if confidences else ""
    over = "documents and seeds" if num_seeds(comparison) >= SEEDS_THAT_SHOW_VARIATION else "documents"
    return (
        f"Loss in nats per token, lower is better; [ ] are {level}bootstrap intervals over {over}. "
        f"The control is {comparison.control}. "
        + ("KL to base: how far the predictions moved. " if "KL to base" in headings else "")
        + DATA_FREE_NOTE
        + _note_rates(comparison)
        + explain_noise_mark(comparison)
    )


def _note_rates(comparison: Comparison) -> str:
    """Of a sweep, which learning rate each arm is shown at; nothing for a comparison at one rate."""
    by_rate: dict[float, list[str]] = {}
    for arm in comparison.arms:
        rate = rate_of(comparison, arm)
        if rate is not None:
            by_rate.setdefault(rate, []).append(arm)
    if not comparison.retention or not by_rate:
        return ""
    if len(by_rate) == 1:
        shown = f"{format_rate(next(iter(by_rate)))} for every arm"
    else:
        shown = "; ".join(f"{format_rate(rate)} ({', '.join(arms)})" for rate, arms in sorted(by_rate.items()))
    return f" Each arm at the end of training, at the learning rate that then had learned most: {shown}."


COST_CAPTION: Final = (
    "Trainable parameters and their share of the model; share of the trained weights that moved; "
    "training time and speed are means over seeds, memory the peak."
)


def render_comparison(comparison: Comparison, *, width: int = WIDE) -> list[Table]:
    """The two tables for a terminal, bold where an interval excludes zero.

    Where there is not the room intervals stand under their means, and the less important columns are left out.
    """
    learned = (
        _render_outcomes(comparison, columns, gap=gap, folded=folded)
        for columns, gap, folded in (
            (OUTCOME_HEADINGS, 3, False),
            (OUTCOME_HEADINGS, 2, False),
            (OUTCOME_HEADINGS, 2, True),
            (OUTCOME_HEADINGS, 1, True),
            (_without(OUTCOME_HEADINGS, "KL to base"), 1, True),
        )
    )
    cost = (
        _render_costs(comparison, columns, gap=gap)
        for columns, gap in ((COST_HEADINGS, 3), (_without(COST_HEADINGS, "share", "tokens/s"), 1))
    )
    return [choose_table(learned, width), choose_table(cost, width)]


def _without(headings: Sequence[str], *left_out: str) -> tuple[str, ...]:
    return tuple(heading for heading in headings if heading not in left_out)


def _render_outcomes(comparison: Comparison, headings: Sequence[str], *, gap: int, folded: bool) -> Table:
    table = make_table("Learned and forgotten", headings, outcome_caption(comparison, headings), gap=gap)
    for section in outcome_sections(comparison):
        opening = dict(zip(OUTCOME_HEADINGS, section_cells(section), strict=True))
        table.add_row(*(_fit(opening[heading], folded) for heading in headings), style="bold")
        for row in section.rows:
            texts = zip(OUTCOME_HEADINGS, outcome_cells(row), strict=True)
            cells = {heading: _fit(text, folded) for heading, text in texts}
            cells["change"] = bold_if(cells["change"], row.is_changed)
            cells["against control"] = bold_if(cells["against control"], row.is_different)
            table.add_row(*(cells[heading] for heading in headings))
        table.add_section()
    return table


def _render_costs(comparison: Comparison, headings: Sequence[str], *, gap: int) -> Table:
    table = make_table("Cost", headings, COST_CAPTION, gap=gap)
    for row in cost_rows(comparison):
        cells = dict(zip(COST_HEADINGS, cost_cells(row), strict=True))
        table.add_row(*(escape(cells[heading]) for heading in headings))
    return table


def _fit(cell: str, folded: bool) -> str:
    """Escape a cell; folded, an interval stands under its mean, and a loss under the one before."""
    return escape(fold_cell(cell) if folded else cell)


def render_markdown(comparison: Comparison) -> str:
    """Both tables as GitHub Markdown."""
    rows: list[Sequence[str]] = []
    for section in outcome_sections(comparison):
        rows.append([f"**{cell}**" if cell else "" for cell in map(escape_markdown, section_cells(section))])
        rows += [[escape_markdown(cell) for cell in outcome_cells(row)] for row in section.rows]
    costs = [[escape_markdown(cell) for cell in cost_cells(row)] for row in cost_rows(comparison)]
    parts = (
        "### Learned and forgotten\n",
        markdown_table(OUTCOME_HEADINGS, rows),
        escape_markdown(outcome_caption(comparison)) + "\n",
        "### Cost\n",
        markdown_table(COST_HEADINGS, costs),
        COST_CAPTION + "\n",
    )
    return "\n".join(parts)
