"""What a sweep found, in words: who forgets less than the control at the same gain, and what to be careful about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from oblong.records import Comparison, Reach
from oblong.reporting.formats import format_interval, format_p_value, format_rate
from oblong.reporting.gain_tables import BY_DIVERGENCE, Edge, GainRow, GainSection, gain_sections, section_title
from oblong.reporting.significance import describe_hidden
from oblong.reporting.verdicts import Direction, join_names, new_domains

MOST_WITH_NUMBERS: Final = 4  # arms without a significant difference; of more, the table has the numbers


IMPROVED: Final = (
    "By this measure no arm has forgotten anything: every arm's loss fell, and they differ in how far it fell, which "
    "is no loss of what the base knew."
)


def describe_gains(comparison: Comparison) -> tuple[tuple[str, ...], ...]:
    """The paragraphs of each retention text, pooled first; texts that cannot be compared share one sentence."""
    sections = gain_sections(comparison)
    blocked = [section for section in sections if not is_comparable(section)]
    described: dict[tuple[str, ...], None] = {}
    for section in sections:
        named = bool(described) and section.gain == sections[0].gain
        described[
            describe_at_gain(comparison, section, gain_is_named=named)
            if is_comparable(section)
            else (_describe_blocked(comparison, blocked),)
        ] = None
    return tuple(described)


def is_comparable(section: GainSection) -> bool:
    """Whether the control gets to the gain, so that there is something to compare with."""
    return section.gain is not None and any(row.is_control and row.forgetting for row in section.rows)


def _describe_blocked(comparison: Comparison, sections: Sequence[GainSection]) -> str:
    """Why there is nothing to compare on these texts."""
    control = comparison.control
    if any(section.gain is None for section in sections):
        return f"{control}, the control, learned nothing, so there is no gain at which to compare forgetting."
    gains = join_names(dict.fromkeys(f"{section.gain:.4f}" for section in sections))
    return (
        f"At a gain of {gains} nats per token on {join_names(new_domains(comparison))}, nothing can be compared on "
        f"{'; '.join(map(section_title, sections))}: {control}, the control, is there too close to the end of its "
        "curves."
    )


def describe_at_gain(comparison: Comparison, section: GainSection, *, gain_is_named: bool = False) -> tuple[str, ...]:
    """What the arms have forgotten of one comparable text when all have learned the same amount, in two paragraphs.

    What is not significant is said not to be, and not called equal; an arm that does not get to the gain is named.
    """
    control = comparison.control
    rivals = [row for row in section.rows if not row.is_control]
    compared = [row for row in rivals if row.difference is not None]
    improved = section.all_improved
    verb, lower, higher = ("improve", "more", "less") if improved else ("forget", "less", "more")
    decided = (
        _describe_control(comparison, section, gain_is_named=gain_is_named),
        IMPROVED if improved and not gain_is_named else "",
        _describe_decided(compared, Direction.LOWER, verb, f"significantly {lower} than {control}"),
        _describe_decided(compared, Direction.HIGHER, verb, f"significantly {higher} than {control}"),
    )
    rest = (
        _describe_hidden(compared, control),
        _describe_undecided(compared, control),
        f"These p-values are adjusted for {len(compared)} arms (Holm)."
        if len(compared) > 1 and not gain_is_named
        else "",
        _describe_unreached(rivals),
    )
    paragraphs = (" ".join(text for text in texts if text) for texts in (decided, rest))
    return tuple(paragraph for paragraph in paragraphs if paragraph)


def _describe_control(comparison: Comparison, section: GainSection, *, gain_is_named: bool) -> str:
    measured = BY_DIVERGENCE if section.measure == "kl" else ""
    place = join_names(section.corpora) + (" (each weighs the same)" if len(section.corpora) > 1 else "") + measured
    gain = f"a gain of {section.gain:.4f} nats per token on {join_names(new_domains(comparison))}"
    opening = f"At {'the same gain' if gain_is_named else gain}"
    forgotten = next(row.forgetting for row in section.rows if row.is_control and row.forgetting)
    note = " (below zero: its loss fell)" if forgotten.mean < 0 else ""
    return f"{opening}, {comparison.control} has forgotten {format_interval(forgotten)} of {place}{note}."


def _describe_decided(rows: Sequence[GainRow], direction: Direction, verb: str, how: str) -> str:
    found = [row for row in rows if row.direction is direction]
    if not found:
        return f"No arm {verb}s {how}." if rows else ""
    return f"{_list(found)} {verb}{'s' if len(found) == 1 else ''} {how}."


def _describe_undecided(rows: Sequence[GainRow], control: str) -> str:
    found = [row for row in rows if row.direction is Direction.UNDECIDED]
    if not found:
        return ""
    rest = "it is" if len(found) == 1 else "they are"
    arms = _list(found) if len(found) <= MOST_WITH_NUMBERS else join_names(row.arm for row in found)
    return f"No significant difference from {control} is found for {arms}, which does not show that {rest} equal."


def _describe_hidden(rows: Sequence[GainRow], control: str) -> str:
    found = [row for row in rows if row.direction is Direction.BELOW_NOISE]
    return describe_hidden(_list(found), len(found), control, found[0].noise_floor) if found else ""


def _list(rows: Iterable[GainRow]) -> str:
    return join_names(_describe_row(row) for row in rows)


def _describe_row(row: GainRow) -> str:
    gap, against = row.difference, row.against_control
    assert gap is not None
    assert against is not None
    p_value = gap.p_value if against.adjusted_p_value is None else against.adjusted_p_value
    return f"{row.arm} ({gap.mean:+.4f}{'' if p_value is None else f', {format_p_value(p_value)}'})"


def _describe_unreached(rivals: Sequence[GainRow]) -> str:
    missing = [(row.arm, row.at_gain.reach) for row in rivals if row.at_gain and row.difference is None]
    never = [arm for arm, reach in missing if reach is Reach.NOT_REACHED]
    unsure = [arm for arm, reach in missing if reach is not Reach.NOT_REACHED]
    texts = (
        f"{join_names(never)} {_agree(never, 'does', 'do')} not get to this gain." if never else "",
        f"{join_names(unsure)} {_agree(unsure, 'is', 'are')} too close to the end of the curves to be compared."
        if unsure
        else "",
    )
    return " ".join(text for text in texts if text)


def _agree(arms: Sequence[str], one: str, several: str) -> str:
    return one if len(arms) == 1 else several


def describe_sweep_fairness(comparison: Comparison) -> tuple[str, ...]:
    """Whether all arms were swept alike."""
    counts = {row.arm: row.num_rates for row in gain_sections(comparison)[0].rows}
    if len(set(counts.values())) < 2:
        return ()
    listed = ", ".join(f"{arm} {count}" for arm, count in counts.items())
    return (
        "The arms were not trained at equally many learning rates: "
        f"{listed}. The best of more noisy curves looks better than the best of fewer.",
    )


def describe_sweep_limits(comparison: Comparison) -> tuple[str, ...]:
    """Best learning rates at the edge of the sweep, runs that ended early, and what the sweep did not try."""
    rows = gain_sections(comparison)[0].rows
    texts = (_describe_edges(rows), _describe_stopped(comparison), _describe_tried(comparison))
    return tuple(text for text in texts if text)


def _describe_edges(rows: Sequence[GainRow]) -> str:
    sides = {edge: [f"{row.arm} ({row.rate})" for row in rows if row.edge is edge] for edge in Edge if edge}
    clauses = [f"the {edge} for {join_names(arms)}" for edge, arms in sides.items() if arms]
    if not clauses:
        return ""
    return (
        f"The best learning rate is at the edge of the sweep: {'; '.join(clauses)}. A rate beyond it may forget less: "
        "sweep further before concluding."
    )


def _describe_stopped(comparison: Comparison) -> str:
    stopped = [run for run in comparison.runs if run.stopped is not None]
    if not stopped:
        return ""
    names = dict.fromkeys(
        f"{run.arm} ({format_rate(run.learning_rate)})" if run.learning_rate else run.arm for run in stopped
    )
    return (
        f"{len(stopped)} of {len(comparison.runs)} runs ended early or are judged by a state before their end: "
        f"{join_names(names)}. What they had reached counts."
    )


def _describe_tried(comparison: Comparison) -> str:
    arms = comparison.retention[0].arms
    rates = sorted({(curve.learning_rate, curve.setting) for arm in arms for curve in arm.curves})
    steps = max((step for arm in arms for curve in arm.curves for step in curve.steps), default=0)
    one = len(rates) == 1
    return (
        f"{'One learning rate was' if one else f'{len(rates)} learning rates were'} tried, "
        f"{join_names(setting for _, setting in rates)}, for at most {steps} steps; at others, or with longer "
        "training, the arms may come in another order."
    )
