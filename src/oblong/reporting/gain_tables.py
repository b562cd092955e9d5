"""Retention -> rows -> the table of what each arm has forgotten at the same gain, for the terminal and the page.

`gain_sections` is pure; `render_gains` and `gain_cells` only format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from statistics import fmean
from typing import Final

from rich.markup import escape
from rich.table import Table

from oblong.records import ArmRetention, AtGain, Comparison, Interval, Reach, ReferencePoint, RetentionMeasure
from oblong.reporting.arms import DATA_FREE_NOTE, SEEDS_THAT_SHOW_VARIATION, is_data_free, num_seeds, runs_of
from oblong.reporting.formats import NOTHING, format_interval, format_p_value, format_parameters, format_yes
from oblong.reporting.noise_floors import explain_noise_mark, find_noise_floor, mark_noise
from oblong.reporting.table_layout import bold_if, choose_table, make_table
from oblong.reporting.verdicts import Direction, decide_at_gain, join_names, new_domains

GAIN_HEADINGS: Final = (
    *("arm", "data-free", "trained", "best rate", "forgetting", "minus control", "adjusted p", "verdict"),
    "hypervolume",
)
BY_DIVERGENCE: Final = ", by divergence from the base"
MEASURES: Final[Mapping[RetentionMeasure, str]] = {"loss": "rise of the loss", "kl": "KL(base || model)"}
VERDICTS: Final[dict[Direction, str]] = {
    Direction.LOWER: "forgets less",
    Direction.HIGHER: "forgets more",
    Direction.UNDECIDED: "not significant",
    Direction.BELOW_NOISE: "below noise",
}
IMPROVED_VERDICTS: Final = {Direction.LOWER: "improves more", Direction.HIGHER: "improves less"}
UNREACHED_NOTE: Final = (
    "Not reached: no learning rate of the arm gets to the gain. Unsure: it gets there in too few of the resamples. "
)
WIDE: Final = 120  # columns


class Room(Enum):
    """How much of the table stands side by side."""

    PLENTY = auto()
    ENOUGH = auto()
    LITTLE = auto()


class Edge(StrEnum):
    """Where an arm's best learning rate lies among those that were tried."""

    INSIDE = ""
    LOWEST = "lowest"
    HIGHEST = "highest"


@dataclass(frozen=True, kw_only=True)
class GainRow:
    """One arm on one retention text, where all have learned equally much; nats per token, intervals as recorded."""

    arm: str
    is_control: bool
    data_free: bool | None
    num_trainable: int
    rate: str | None
    edge: Edge
    num_rates: int
    at_gain: AtGain | None
    against_control: AtGain | None
    hypervolume: float
    noise_floor: float = 0.0

    @property
    def forgetting(self) -> Interval | None:
        """What it has forgotten at that gain; None unless it gets there."""
        return self.at_gain.forgetting if self.at_gain else None

    @property
    def difference(self) -> Interval | None:
        """That minus the control's."""
        return self.against_control.forgetting if self.against_control else None

    @property
    def direction(self) -> Direction:
        """What may be claimed of the difference."""
        return (
            Direction.UNDECIDED
            if self.against_control is None
            else decide_at_gain(self.against_control, self.noise_floor)
        )


@dataclass(frozen=True, kw_only=True)
class GainSection:
    """One retention text: the rows by rising forgetting, then the arms that do not get to the gain."""

    corpora: tuple[str, ...]
    measure: RetentionMeasure
    gain: float | None
    reference: ReferencePoint
    rows: tuple[GainRow, ...]

    @property
    def all_improved(self) -> bool:
        """Whether every arm predicts the old text better than the base: then they differ in what they add to it."""
        forgotten = [row.forgetting for row in self.rows if row.forgetting is not None]
        return self.measure != "kl" and all(interval.mean < 0 for interval in forgotten)


def gain_sections(comparison: Comparison) -> tuple[GainSection, ...]:
    """One section per retention text, all of them pooled first; none where there was no sweep."""
    return tuple(
        GainSection(
            corpora=retention.corpora,
            measure=retention.measure,
            gain=retention.gain,
            reference=retention.reference,
            rows=tuple(
                sorted(
                    (
                        _make_row(
                            comparison, arm, find_noise_floor(comparison, retention.corpora, measure=retention.measure)
                        )
                        for arm in retention.arms
                    ),
                    key=_rank,
                )
            ),
        )
        for retention in comparison.retention
    )


def _make_row(comparison: Comparison, arm: ArmRetention, noise_floor: float) -> GainRow:
    rate = arm.at_gain.settings[0] if arm.at_gain and arm.at_gain.settings else None
    return GainRow(
        arm=arm.arm,
        is_control=arm.arm == comparison.control,
        data_free=is_data_free(comparison, arm.arm),
        num_trainable=round(fmean(run.run.num_trainable for run in runs_of(comparison, arm.arm))),
        rate=rate,
        edge=find_edge(arm, rate),
        num_rates=len(arm.curves),
        at_gain=arm.at_gain,
        against_control=arm.against_control,
        hypervolume=arm.hypervolume,
        noise_floor=noise_floor,
    )


def find_edge(arm: ArmRetention, rate: str | None) -> Edge:
    """Whether a learning rate is the lowest or the highest of several that an arm was trained at."""
    settings = [curve.setting for curve in sorted(arm.curves, key=lambda curve: curve.learning_rate)]
    if rate is None or len(settings) < 2:
        return Edge.INSIDE
    return {settings[0]: Edge.LOWEST, settings[-1]: Edge.HIGHEST}.get(rate, Edge.INSIDE)


def _rank(row: GainRow) -> tuple[int, float]:
    if row.forgetting is not None:
        return 0, row.forgetting.mean
    return 1 if row.at_gain and row.at_gain.reach is Reach.UNSURE else 2, 0.0


# --- formatting ---------------------------------------------------------------------------------------------------


def gain_verdict(row: GainRow, *, all_improved: bool = False) -> str:
    """The row in two words; where no arm has forgotten anything, none is said to forget."""
    if row.at_gain is None:
        return "no common gain"
    if row.at_gain.reach is not Reach.REACHED:
        return "unsure" if row.at_gain.reach is Reach.UNSURE else "not reached"
    if row.is_control:
        return "control"
    if row.against_control is None or row.difference is None:
        return "not comparable"
    return (VERDICTS | IMPROVED_VERDICTS if all_improved else VERDICTS)[row.direction]


def gain_cells(row: GainRow, *, all_improved: bool = False) -> tuple[str, ...]:
    """The texts under GAIN_HEADINGS."""
    arrow = {Edge.INSIDE: "", Edge.LOWEST: " ↓", Edge.HIGHEST: " ↑"}[row.edge]
    p_value = row.against_control.adjusted_p_value if row.against_control else None
    return (
        row.arm,
        format_yes(row.data_free),
        format_parameters(row.num_trainable),
        NOTHING if row.rate is None else row.rate + arrow,
        mark_noise(format_interval(row.forgetting), row.forgetting, row.noise_floor),
        mark_noise(format_interval(row.difference), row.difference, row.noise_floor),
        NOTHING if p_value is None else format_p_value(p_value).removeprefix("p = ").removeprefix("p "),
        gain_verdict(row, all_improved=all_improved),
        f"{row.hypervolume:.4f}",
    )


def section_title(section: GainSection) -> str:
    """`english and python, pooled (each weighs the same)`, or the one corpus."""
    pooled = ", pooled (each weighs the same)" if len(section.corpora) > 1 else ""
    return join_names(section.corpora) + pooled + (BY_DIVERGENCE if section.measure == "kl" else "")


def gain_caption(comparison: Comparison, sections: Sequence[GainSection]) -> str:
    """How to read a table of some sections, without its last column."""
    edges = {row.edge for section in sections for row in section.rows} - {Edge.INSIDE}
    arrows = "Arrows: the lowest or highest rate tried, beyond which there may be a better one. " if edges else ""
    reaches = {row.at_gain.reach for section in sections for row in section.rows if row.at_gain}
    unreached = UNREACHED_NOTE if reaches - {Reach.REACHED} else ""
    return (
        f"{_explain_forgetting(comparison, sections)}{arrows}{unreached}{DATA_FREE_NOTE}"
        f"{explain_noise_mark(comparison)}"
    )


def _explain_forgetting(comparison: Comparison, sections: Sequence[GainSection]) -> str:
    gains = list(dict.fromkeys(section.gain for section in sections if section.gain is not None))
    if not gains:
        return f"The control, {comparison.control}, learned nothing, so there is no gain to compare at. "
    measures = " or, by divergence, ".join(MEASURES[name] for name in dict.fromkeys(part.measure for part in sections))
    amount = f"{gains[0]:.4f}" if len(gains) == 1 else "as many"
    over = "documents and seeds" if num_seeds(comparison) >= SEEDS_THAT_SHOW_VARIATION else "documents"
    return (
        f"Forgetting: {measures}, nats per token, by the time an arm has learned {amount} nats per token of "
        f"{join_names(new_domains(comparison))}{'' if len(gains) == 1 else ' as stand above its rows'}, at the "
        f"learning rate that then forgets least; [ ] are 95 % bootstrap intervals over {over}, p is adjusted for the "
        f"number of arms (Holm). The control is {comparison.control}. "
    )


def describe_hypervolume(sections: Sequence[GainSection]) -> str:
    """What the last column is."""
    corners = join_names(dict.fromkeys(section.reference.name for section in sections))
    return f"Hypervolume: area between an arm's front and the corner of {corners}; larger is better."


def render_gains(comparison: Comparison, *, width: int = WIDE) -> list[Table]:
    """The table of the first retention text for a terminal, by each measure; none without a sweep.

    Where there is not the room intervals stand under their means; where there is still less, the p-value and the
    verdict stand there too, and trained parameters and hypervolumes are left out.
    """
    firsts = {section.measure: section for section in reversed(gain_sections(comparison))}
    sections = [firsts[measure] for measure in MEASURES if measure in firsts]
    return [
        choose_table((_render_section(comparison, section, room, is_first=not place) for room in Room), width)
        for place, section in enumerate(sections)
    ]


def _render_section(comparison: Comparison, section: GainSection, room: Room, *, is_first: bool) -> Table:
    gain = "" if section.gain is None else f", at the same gain of {section.gain:.4f}"
    shown = (0, 1, 3, 4, 5) if room is Room.LITTLE else tuple(range(len(GAIN_HEADINGS)))
    table = make_table(
        f"Forgetting of {section_title(section)}{gain}",
        [GAIN_HEADINGS[index] for index in shown],
        _caption_in_full(comparison, section, room)
        if is_first
        else f"Forgetting: {MEASURES[section.measure]}; the rest as above.",
        gap=3 if room is Room.PLENTY else 1,
    )
    for row in section.rows:
        fold = " [", " [" if room is Room.PLENTY else "\n["
        cells = [escape(cell.replace(*fold)) for cell in gain_cells(row, all_improved=section.all_improved)]
        if room is Room.LITTLE:
            cells[5] = _stack(cells[5], cells[6], cells[7])
        cells[5] = bold_if(cells[5], row.direction.is_decided)
        table.add_row(*(cells[index] for index in shown))
    return table


def _caption_in_full(comparison: Comparison, section: GainSection, room: Room) -> str:
    hypervolume = "" if room is Room.LITTLE else f" {describe_hypervolume([section])}"
    return gain_caption(comparison, [section]) + hypervolume


def _stack(difference: str, p_value: str, verdict: str) -> str:
    """Difference, p-value and verdict in one cell, as far as there are any."""
    sign = "" if p_value.startswith("<") else "= "
    lines = (difference, f"p {sign}{p_value}" if p_value != NOTHING else NOTHING, verdict)
    return "\n".join(line for line in lines if line != NOTHING)
