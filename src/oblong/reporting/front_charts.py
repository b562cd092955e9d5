"""The figure of learning-forgetting fronts: a large panel with the arms' names, and one small panel per corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import altair as alt

from oblong.records import Comparison, Retention
from oblong.reporting.charts import FULL_WIDTH, Styles, embed
from oblong.reporting.front_rows import Frame, curve_rows, find_frame, front_rows, label_rows
from oblong.reporting.verdicts import join_names, new_domains

NAMES_WIDTH: Final = 210
LINE_HEIGHT: Final = 16
LEAST_HEIGHT: Final = 380
SMALL_HEIGHT: Final = 230
NUMBER: Final = "+.4f"


def fronts_chart(comparison: Comparison, styles: Styles) -> alt.VConcatChart:
    """Forgetting against gain: every learning rate's way faintly, each arm's front boldly; see `front_rows`."""
    first, *others = comparison.retention
    gain_title = f"learned: fall of the loss on {join_names(new_domains(comparison))}, nats per token"
    panels = [_large_panel(first, gain_title, styles)]
    if others:
        small = [_small_panel(retention, styles) for retention in others]
        panels.append(alt.concat(*small, columns=2, spacing=28))
    return alt.vconcat(*panels, spacing=24)


def _large_panel(retention: Retention, gain_title: str, styles: Styles) -> alt.LayerChart:
    height = max(LEAST_HEIGHT, LINE_HEIGHT * (len(retention.arms) + 2))
    names = label_rows(retention, spacing=LINE_HEIGHT / height)
    layers = (*_panel_layers(retention, gain_title, styles), *_name_layers(names, find_frame(retention), styles))
    return alt.layer(*layers).properties(width=FULL_WIDTH - NAMES_WIDTH, height=height, title=_name_text(retention))


def _small_panel(retention: Retention, styles: Styles) -> alt.LayerChart:
    layers = _panel_layers(retention, "learned, nats per token", styles)
    return alt.layer(*layers).properties(width=FULL_WIDTH // 2 - 60, height=SMALL_HEIGHT, title=_name_text(retention))


def _name_text(retention: Retention) -> str:
    return f"{join_names(retention.corpora)}, each weighing the same" if retention.is_pooled else retention.corpora[0]


def _panel_layers(retention: Retention, gain_title: str, styles: Styles) -> tuple[alt.Chart, ...]:
    frame = find_frame(retention)
    x, y = _axes(frame, gain_title)
    arms = [arm.arm for arm in retention.arms]
    colour, shape = _scale(alt.Color, arms, styles, "colour"), _scale(alt.Shape, arms, styles, "shape")
    curves = alt.Chart(embed(curve_rows(retention))).encode(x=x, y=y, color=colour)
    fronts = alt.Chart(embed(front_rows(retention))).encode(x=x, y=y, color=colour)
    tooltip = [
        *("arm:N", alt.Tooltip("rate:N", title="learning rate"), "step:Q"),
        *(alt.Tooltip("gain:Q", format=NUMBER), alt.Tooltip("forgetting:Q", format=NUMBER)),
    ]
    return (
        *_reference_layers(retention, x, y),
        curves.mark_line(strokeWidth=0.9, opacity=0.4, clip=True).encode(detail="rate:N", order="step:Q"),
        curves.mark_point(size=14, filled=True, opacity=0.55, clip=True).encode(shape=shape, tooltip=tooltip),
        fronts.mark_line(strokeWidth=2.4, clip=True).encode(order="gain:Q"),
        fronts.mark_point(size=46, filled=True, opacity=1, clip=True).encode(
            shape=shape, tooltip=["arm:N", *tooltip[-2:]]
        ),
    )


def _reference_layers(retention: Retention, x: alt.X, y: alt.Y) -> tuple[alt.Chart, ...]:
    base = alt.Chart(embed([{"gain": 0, "forgetting": 0}]))
    layers = (
        base.mark_rule(style="reference").encode(y=y),
        base.mark_point(style="base", shape="cross", size=60).encode(x=x, y=y),
    )
    if retention.gain is None:
        return layers
    matched = alt.Chart(embed([{"gain": retention.gain, "text": f"compared at {retention.gain:.3g}"}]))
    return (
        *layers,
        matched.mark_rule(style="matched").encode(x=x),
        matched.mark_text(style="annotation", align="right", dx=-5, dy=9).encode(x=x, y=alt.value(0), text="text:N"),
    )


def _name_layers(names: Sequence[Mapping[str, Any]], frame: Frame, styles: Styles) -> tuple[alt.Chart, ...]:
    """A thin line from the end of each front to the edge of the frame, and there the arm's mark and name."""
    arms = [row["arm"] for row in names]
    colour, shape = _scale(alt.Color, arms, styles, "colour"), _scale(alt.Shape, arms, styles, "shape")
    chart = alt.Chart(embed(names))
    domain = alt.Scale(domain=list(frame.forgetting), nice=False)
    at_label = alt.Y("label:Q", scale=domain, title=None)
    edge = FULL_WIDTH - NAMES_WIDTH
    return (
        chart.mark_rule(strokeWidth=0.8, opacity=0.7).encode(
            x="gain:Q", x2="edge:Q", y=alt.Y("forgetting:Q", scale=domain, title=None), y2="label:Q", color=colour
        ),
        chart.mark_point(size=46, filled=True, opacity=1).encode(
            x=alt.value(edge + 8), y=at_label, color=colour, shape=shape
        ),
        chart.mark_text(style="annotation", align="left", baseline="middle").encode(
            x=alt.value(edge + 18), y=at_label, text="arm:N"
        ),
    )


def _axes(frame: Frame, gain_title: str) -> tuple[alt.X, alt.Y]:
    x = alt.X(
        "gain:Q", title=gain_title, scale=alt.Scale(domain=list(frame.gain), nice=False), axis=alt.Axis(tickCount=6)
    )
    y = alt.Y(
        "forgetting:Q",
        title="forgotten, nats per token",
        scale=alt.Scale(domain=list(frame.forgetting), nice=False),
        axis=alt.Axis(tickCount=6),
    )
    return x, y


def _scale(channel: Any, arms: Sequence[str], styles: Styles, attribute: str) -> Any:
    scale = alt.Scale(domain=list(arms), range=[getattr(styles[arm], attribute) for arm in arms])
    return channel("arm:N", scale=scale, legend=None)
