"""Rows of SpeechRuns -> the chart of learning to hear beside forgetting text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import altair as alt

from oblong.reporting.chart_rows import Row
from oblong.reporting.charts import FULL_WIDTH, arm_legend
from oblong.reporting.figures import Figure
from oblong.reporting.speech_run_rows import (
    ArmRecord,
    Axis,
    choose_unit,
    curve_rows,
    list_arms,
    list_sets,
    list_texts,
    mean_curve_rows,
    repeated_arms,
)
from oblong.reporting.theme import ArmStyle, style_arms

MAX_COLUMNS: Final = 3
TOP_WER: Final = 1.2  # before it listens a model may write many times as many words as were said
MIN_TOP_WER: Final = 0.2
LOG_FROM: Final = 4.0  # a perplexity so many times that of the base would flatten all others on a linear scale
MARK_ROOM: Final = 0.03  # of the axis, beyond the outermost marks
LABEL_EXTENT: Final = 42  # points, so that the panels of a column stand exactly below each other
WER_HEIGHT, RETENTION_HEIGHT = 250, 170
FIGURE_KEY: Final = "word-errors-and-retention"


def build_speech_run_figure(records: Sequence[ArmRecord], over: Axis = "time") -> Figure:
    """Word error rate over training, one column per test set, and the retention of each text below it."""
    return Figure(
        key=FIGURE_KEY,
        title="Word errors and text retention over training",
        caption=" ".join(_caption(records, curve_rows(records, over))),
        alt_text="Line charts: word error rate of each test set over training, and below them the perplexity on text "
        "relative to the untouched model, one colour per arm; the tables hold the numbers at the kept checkpoint.",
        chart=speech_run_chart(records, over),
    )


def _caption(records: Sequence[ArmRecord], rows: Sequence[Row]) -> Iterator[str]:
    yield "Above: lower is better heard. Below: perplexity on text over that of the untouched language model; 1 is"
    yield "nothing forgotten. Evaluations are not counted as training."
    if any(row["best"] for row in rows):
        yield "The ring is the checkpoint that was kept."
    if any(row["x"] < 0 for row in rows):
        yield "Left of 0 the adaptor alone is trained."
    top = find_top_wer(rows)
    if any(row["kind"] == "wer" and (row["value"] or 0) > top for row in rows):
        yield f"Rates above {top:.0%} lie outside."
    if repeated_arms(records):
        yield "Bold: mean over the seeds, as far as all of them went. Faint: single seeds."


def speech_run_chart(records: Sequence[ArmRecord], over: Axis = "time") -> alt.Chart:
    """The chart itself; see `build_speech_run_figure`."""
    rows = curve_rows(records, over)
    styles = style_arms(list_arms(records))
    unit = choose_unit(records)[0] if over == "time" else "steps"
    x_title = f"training, {unit}"
    bands = [
        _band(rows, "wer", list_sets(records), styles, "word error rate", x_title),
        _band(rows, "retention", list_texts(records), styles, "perplexity / untouched", x_title),
    ]
    return alt.vconcat(*(band for band in bands if band is not None), spacing=26)


def _band(
    rows: Sequence[Row], kind: str, panels: Sequence[str], styles: Mapping[str, ArmStyle], y_title: str, x_title: str
) -> alt.Chart | None:
    if not panels:
        return None
    mine = [row for row in rows if row["kind"] == kind]
    columns = min(len(panels), MAX_COLUMNS)
    first, last = _span([row["x"] for row in rows])
    room = MARK_ROOM * (last - first)
    x = alt.X(
        "x:Q",
        title=x_title,
        scale=alt.Scale(domain=[first - room, last + room], nice=False),
        axis=alt.Axis(tickCount=8),
    )
    drawn = []
    for place, panel in enumerate(panels):
        title = y_title if place % columns == 0 else None
        y = _wer_axis(mine, title) if kind == "wer" else _retention_axis(mine, title)
        drawn.append(
            alt.layer(
                *_reference_rules(kind, x, y, begins=first),
                *_curves([row for row in mine if row["panel"] == panel], x, y, styles),
            ).properties(
                width=(FULL_WIDTH - 70 * columns) // columns,
                height=WER_HEIGHT if kind == "wer" else RETENTION_HEIGHT,
                title=panel,
            )
        )
    return alt.concat(*drawn, columns=columns, spacing=28)


def _curves(rows: Sequence[Row], x: alt.X, y: alt.Y, styles: Mapping[str, ArmStyle]) -> list[alt.Chart]:
    """Seeds thin, means bold with a mark at each evaluation, and a ring around what was kept."""
    colour, shape = _arm_channels(styles)
    means = mean_curve_rows(rows)
    repeated = {row["arm"] for row in means if row["seeds"] > 1}
    seeds = [row for row in rows if row["arm"] in repeated]
    tooltip = ["arm:N", alt.Tooltip("value:Q", format=".4f"), "stage:N", "step:Q", alt.Tooltip("x:Q", format=".2f")]
    return [
        alt.Chart(_data(seeds))
        .mark_line(strokeWidth=1, opacity=0.35, clip=True)
        .encode(x=x, y=y, color=colour, detail="seed:N"),
        alt.Chart(_data([row for row in rows if row["best"] and row["value"] is not None]))
        .mark_point(size=190, filled=False, strokeWidth=1.4, opacity=0.9, clip=True)
        .encode(x=x, y=y, color=colour, tooltip=[*tooltip, "seed:N"]),
        alt.Chart(_data(means)).mark_line(strokeWidth=2, clip=True).encode(x=x, y=y, color=colour),
        alt.Chart(_data(means))
        .mark_point(size=46, filled=True, opacity=1, clip=True)
        .encode(x=x, y=y, color=colour, shape=shape, tooltip=tooltip),
    ]


def _reference_rules(kind: str, x: alt.X, y: alt.Y, *, begins: float) -> list[alt.Chart]:
    """The end of the alignment where there was one, and the untouched model."""
    rules = []
    if begins < 0:
        rules.append(alt.Chart(_data([{"x": 0}])).mark_rule(style="reference").encode(x=x))
    if kind == "retention":
        rules.append(alt.Chart(_data([{"value": 1}])).mark_rule(style="reference").encode(y=y))
    return rules


def _arm_channels(styles: Mapping[str, ArmStyle]) -> tuple[alt.Color, alt.Shape]:
    arms = list(styles)
    legend = arm_legend(arms) if len(arms) > 1 else None
    colours = alt.Scale(domain=arms, range=[styles[arm].colour for arm in arms])
    shapes = alt.Scale(domain=arms, range=[styles[arm].shape for arm in arms])
    return (
        alt.Color("arm:N", scale=colours, sort=arms, legend=legend),
        alt.Shape("arm:N", scale=shapes, sort=arms, legend=legend),
    )


def _wer_axis(rows: Sequence[Row], title: str | None) -> alt.Y:
    scale = alt.Scale(domain=[0, find_top_wer(rows)], nice=False)
    return alt.Y("value:Q", title=title, scale=scale, axis=_axis(".0%", 6))


def find_top_wer(rows: Sequence[Row]) -> float:
    """Where the axis of word error rates ends: with the highest, or earlier, but never below where a run ended."""
    rates = [row for row in rows if row["kind"] == "wer" and row["value"] is not None]
    highest = max((row["value"] for row in rates), default=1.0)
    ends = {(row["arm"], row["seed"], row["panel"]): row["value"] for row in rates}
    return min(max(highest * 1.03, MIN_TOP_WER), max(TOP_WER, 1.1 * max(ends.values(), default=0.0)))


def _retention_axis(rows: Sequence[Row], title: str | None) -> alt.Y:
    low, high = _span([*(row["value"] for row in rows), 1.0])
    if high > LOG_FROM:
        scale = alt.Scale(type="log", domain=[low / 1.05, high * 1.05], nice=False)
        return alt.Y("value:Q", title=title, scale=scale, axis=_axis("~g", 5))
    room = max(0.06 * (high - low), 0.005)
    scale = alt.Scale(domain=[low - room, high + room], nice=False, zero=False)
    return alt.Y("value:Q", title=title, scale=scale, axis=_axis("~g", 5))


def _axis(number_format: str, ticks: int) -> alt.Axis:
    return alt.Axis(format=number_format, tickCount=ticks, minExtent=LABEL_EXTENT, maxExtent=LABEL_EXTENT)


def _span(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [low, high] if low < high else [low, low + 1]


def _data(rows: Sequence[Row]) -> alt.Data:
    return alt.Data(values=[dict(row) for row in rows])
