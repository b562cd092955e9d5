"""Answers to a suite's questions, and what became of them, as tables and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich import box
from rich.markup import escape
from rich.table import Table

from oblong.records import Comparison, Interval, TaskChange, TaskScore
from oblong.reporting.arms import DATA_FREE_NOTE, is_data_free
from oblong.reporting.formats import NOTHING, format_p_value, format_share, format_yes
from oblong.reporting.table_layout import bold_if, choose_table, fold_cell, make_table
from oblong.reporting.verdicts import join_names

_ChangeRow = tuple[TaskChange, tuple[str, ...]]

LEVEL: Final = 0.05
WIDE: Final = 120  # columns
CHANGE_HEADINGS: Final = ("accuracy", "change", "lost", "gained", "p", "adjusted")
CHANGE_CAPTION: Final = (
    "Lost: right before, wrong after; gained: wrong before, right after. Change in percentage points with its 95 % "
    "interval over questions; p by McNemar's test, over questions where there are several seeds, adjusted by Holm over "
    "the tasks of an arm. Bold: significant."
)
ANSWER_HEADINGS: Final = ("arm", "data-free", "task", *CHANGE_HEADINGS)
ANSWER_CAPTION: Final = f"{CHANGE_CAPTION} {DATA_FREE_NOTE}"


def render_suite(suite: Mapping[str, TaskScore], intervals: Mapping[str, tuple[float, float]]) -> Table:
    """One row per task.

    Args:
        suite: scores by task.
        intervals: of the accuracies, by task.
    """
    table = _make_table("questions with right answers", "accuracy with its 95 % Wilson interval; chance: of guessing")
    table.add_column("task", overflow="fold")
    for heading in ("questions", "accuracy", "", "chance", "metric"):
        table.add_column(heading, justify="right", no_wrap=True)
    for task, score in suite.items():
        low, high = intervals[task]
        table.add_row(
            escape(task),
            f"{len(score.right):,}",
            format_share(score.accuracy),
            escape(f"[{100 * low:.1f}, {100 * high:.1f}]"),
            format_share(score.chance),
            score.metric,
        )
    return table


def render_task_changes(changes: Sequence[TaskChange], *, title: str, width: int = WIDE) -> Table:
    """One row per task of one model; where there is not the room, intervals stand under their means."""
    rows = [(change, (change.task, *change_cells(change))) for change in changes]
    return _choose_changes(title, ("task", *CHANGE_HEADINGS), rows, CHANGE_CAPTION, width)


def render_answers(comparison: Comparison, *, width: int = WIDE) -> Table:
    """One row per arm and task of a Comparison."""
    rows = [(change, answer_cells(comparison, change)) for change in comparison.answers]
    return _choose_changes("Answers to questions, before and after", ANSWER_HEADINGS, rows, ANSWER_CAPTION, width)


def answer_cells(comparison: Comparison, change: TaskChange) -> tuple[str, ...]:
    """The texts under ANSWER_HEADINGS."""
    return (change.arm, format_yes(is_data_free(comparison, change.arm)), change.task, *change_cells(change))


def is_significant_change(change: TaskChange) -> bool:
    """Whether the change of accuracy is more than chance, after the correction where there is one."""
    return (change.p_value if change.adjusted_p_value is None else change.adjusted_p_value) < LEVEL


def _choose_changes(title: str, headings: Sequence[str], rows: Sequence[_ChangeRow], caption: str, width: int) -> Table:
    wide = (_render_changes(title, headings, rows, caption, gap=gap) for gap in (3, 2))
    return choose_table((*wide, _render_folded(title, headings, rows, caption)), width)


def _render_changes(
    title: str, headings: Sequence[str], rows: Sequence[_ChangeRow], caption: str, *, gap: int
) -> Table:
    table = make_table(escape(title), headings, caption, gap=gap)
    table.columns[headings.index("task")].justify = "left"
    for change, texts in rows:
        cells = dict(zip(headings, map(escape, texts), strict=True))
        cells["change"] = bold_if(cells["change"], is_significant_change(change))
        table.add_row(*cells.values())
    return table


def _render_folded(title: str, headings: Sequence[str], rows: Sequence[_ChangeRow], caption: str) -> Table:
    """Intervals under their means, and of two p-values the one that decides."""
    kept = [heading for heading in headings if heading != "adjusted"]
    shown: list[_ChangeRow] = []
    for change, texts in rows:
        cells = dict(zip(headings, map(fold_cell, texts), strict=True))
        if change.adjusted_p_value is not None:
            cells["p"] = cells["adjusted"]
        shown.append((change, tuple(cells[heading] for heading in kept)))
    return _render_changes(title, kept, shown, caption, gap=1)


def change_cells(change: TaskChange) -> tuple[str, ...]:
    """Accuracy, change, lost, gained, p-value and adjusted p-value of one task."""
    return (
        f"{100 * change.before:.1f} → {100 * change.after:.1f} %",
        format_points(change.difference),
        f"{change.num_lost:,}",
        f"{change.num_gained:,}",
        _p_cell(change.p_value),
        _p_cell(change.adjusted_p_value),
    )


def _p_cell(p_value: float | None) -> str:
    return NOTHING if p_value is None else format_p_value(p_value).removeprefix("p ").removeprefix("= ")


def format_points(difference: Interval | None) -> str:
    """`-2.0 [-4.1, +0.1]`, percentage points."""
    if difference is None:
        return "no change"
    return f"{100 * difference.mean:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def describe_task_changes(changes: Sequence[TaskChange]) -> tuple[str, ...]:
    """Sentences on one arm: which tasks were lost or gained beyond chance, and what all tasks together say."""
    tested = [change for change in changes if change.adjusted_p_value is not None]
    significant = [change for change in tested if (change.adjusted_p_value or 0) < LEVEL]
    others = [change.task for change in tested if change not in significant]
    sentences = [_describe(change) for change in significant]
    if others:
        sentences.append(
            f"On {join_names(others)} no change of accuracy can be told from chance, which does not show that there is"
            " none."
        )
    if significant and len(tested) > 1:
        sentences.append(f"These p-values are adjusted for {len(tested)} tasks (Holm).")
    return (*sentences, *(_describe_all(change) for change in changes if change.adjusted_p_value is None))


def describe_answers(changes: Sequence[TaskChange]) -> tuple[str, ...]:
    """One paragraph for each arm."""
    arms = dict.fromkeys(change.arm for change in changes)
    return tuple(
        f"{arm}: {' '.join(describe_task_changes([change for change in changes if change.arm == arm]))}" for arm in arms
    )


def _describe(change: TaskChange) -> str:
    verb = "got worse" if change.after < change.before else "got better"
    p_value = change.p_value if change.adjusted_p_value is None else change.adjusted_p_value
    return f"{change.task} {verb}: {_count(change)} ({format_p_value(p_value)})."


def _describe_all(change: TaskChange) -> str:
    verdict = "no difference can be told from chance"
    if change.p_value < LEVEL:
        verdict = "more lost than gained" if change.after < change.before else "more gained than lost"
    return f"Over {change.task}, {_count(change)}: {verdict} ({format_p_value(change.p_value)})."


def _count(change: TaskChange) -> str:
    seeds = f" under {change.num_seeds} seeds" if change.num_seeds > 1 else ""
    return f"{change.num_lost:,} of {change.num_answers:,} answers were lost and {change.num_gained:,} gained{seeds}"


def _make_table(title: str, caption: str) -> Table:
    return Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
