"""The figures of learning-forgetting fronts: all arms in one panel, one small panel per corpus, and one per arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import altair as alt

from oblong.records import Comparison, Retention
from oblong.reporting.charts import FULL_WIDTH, Styles, embed
from oblong.reporting.front_rows import Frame, curve_rows, find_frame, front_rows, label_rows
from oblong.reporting.gain_tables import BY_DIVERGENCE
from oblong.reporting.theme import ARM_COLOURS
from oblong.reporting.verdicts import join_names, new_domains

NAMES_WIDTH: Final = 210
LINE_HEIGHT: Final = 16
LEAST_HEIGHT: Final = 380
SMALL_HEIGHT: Final = 230
PANELS_PER_ROW: Final = 4
PANEL_WIDTH: Final = 158
PANEL_HEIGHT: Final = 110
FORGOTTEN: Final = "forgotten, nats per token"
VALUES: Final = (alt.Tooltip("gain:Q", format="+.4f"), alt.Tooltip("forgetting:Q", format="+.4f"))

Layers = Callable[[Retention, Frame, Styles], tuple[alt.Chart, ...]]


def fronts_chart(comparison: Comparison, styles: Styles) -> alt.VConcatChart:
    """Forgetting against gain: every learning rate's way faintly, each arm's front boldly; see `front_rows`.

    Of more arms than there are colours only the fronts are drawn; `each_arm_chart` has the rest.
    """
    first, *others = comparison.retention
    layers = _front_layers if has_many_arms(comparison) else _all_layers
    panels: list[Any] = [_large_panel(first, comparison, styles, layers)]
    if others:
        small = [_small_panel(retention, styles, layers) for retention in others]
        panels.append(alt.concat(*small, columns=2, spacing=28))
    return alt.vconcat(*panels, spacing=24)


def each_arm_chart(comparison: Comparison, styles: Styles) -> alt.ConcatChart:
    """One small panel per arm on the first retention text: its learning rates and front, and the control's front."""
    first = comparison.retention[0]
    frame = find_frame(first)
    control = _only(first, comparison.control)
    panels = []
    for arm in first.arms:
        own = _only(first, arm.arm)
        layers = (*_reference_layers(first, frame), *_front_layers(control, frame, styles)[:1])
        panel = alt.layer(*layers, *_all_layers(own, frame, styles))
        panels.append(panel.properties(width=PANEL_WIDTH, height=PANEL_HEIGHT, title=alt.Title(arm.arm, fontSize=12)))
    return alt.concat(*panels, columns=PANELS_PER_ROW, spacing=16)


def has_many_arms(comparison: Comparison) -> bool:
    """Whether there are more arms than colours, the control apart."""
    return len(comparison.arms) > len(ARM_COLOURS) + 1


def _only(retention: Retention, name: str) -> Retention:
    return retention.model_copy(update={"arms": tuple(arm for arm in retention.arms if arm.arm == name)})


def _large_panel(retention: Retention, comparison: Comparison, styles: Styles, layers: Layers) -> alt.LayerChart:
    frame = find_frame(retention)
    height = max(LEAST_HEIGHT, LINE_HEIGHT * (len(retention.arms) + 2))
    gain_title = f"learned: fall of the loss on {join_names(new_domains(comparison))}, nats per token"
    return alt.layer(
        *_reference_layers(retention, frame, gain_title, FORGOTTEN, label=True),
        *layers(retention, frame, styles),
        *_name_layers(label_rows(retention, spacing=LINE_HEIGHT / height), frame, styles),
    ).properties(width=FULL_WIDTH - NAMES_WIDTH, height=height, title=_title(retention))


def _small_panel(retention: Retention, styles: Styles, layers: Layers) -> alt.LayerChart:
    frame = find_frame(retention)
    return alt.layer(
        *_reference_layers(retention, frame, "learned, nats per token", FORGOTTEN), *layers(retention, frame, styles)
    ).properties(width=FULL_WIDTH // 2 - 60, height=SMALL_HEIGHT, title=_title(retention))


def _title(retention: Retention) -> str:
    pooled = ", each weighing the same" if retention.is_pooled else ""
    return join_names(retention.corpora) + pooled + (BY_DIVERGENCE if retention.measure == "kl" else "")


def _all_layers(retention: Retention, frame: Frame, styles: Styles) -> tuple[alt.Chart, ...]:
    return (*_curve_layers(retention, frame, styles), *_front_layers(retention, frame, styles))


def _curve_layers(retention: Retention, frame: Frame, styles: Styles) -> tuple[alt.Chart, ...]:
    x, y = _axes(frame)
    curves = alt.Chart(embed(curve_rows(retention))).encode(x=x, y=y, color=_colour(styles))
    tooltip = ["arm:N", alt.Tooltip("rate:N", title="learning rate"), "step:Q", *VALUES]
    return (
        curves.mark_line(strokeWidth=0.9, opacity=0.45, clip=True).encode(detail="rate:N", order="step:Q"),
        curves.mark_point(size=14, filled=True, opacity=0.6, clip=True).encode(shape=_shape(styles), tooltip=tooltip),
    )


def _front_layers(retention: Retention, frame: Frame, styles: Styles) -> tuple[alt.Chart, ...]:
    x, y = _axes(frame)
    fronts = alt.Chart(embed(front_rows(retention))).encode(x=x, y=y, color=_colour(styles))
    return (
        fronts.mark_line(strokeWidth=2.2, clip=True).encode(order="gain:Q"),
        fronts.mark_point(size=46, filled=True, opacity=1, clip=True).encode(
            shape=_shape(styles), tooltip=["arm:N", *VALUES]
        ),
    )


def _reference_layers(
    retention: Retention, frame: Frame, gain_title: str = "", forgotten_title: str = "", *, label: bool = False
) -> tuple[alt.Chart, ...]:
    """The base, the line of no forgetting, and the gain at which arms are compared."""
    x, y = _axes(frame, gain_title, forgotten_title)
    base = alt.Chart(embed([{"gain": 0, "forgetting": 0}]))
    matched = alt.Chart(
        embed([] if retention.gain is None else [{"gain": retention.gain, "text": f"compared at {retention.gain:.3g}"}])
    )
    text = matched.mark_text(style="annotation", align="right", dx=-5, dy=9)
    return (
        base.mark_rule(style="reference").encode(y=y),
        base.mark_point(style="base", shape="cross", size=60).encode(x=x, y=y),
        matched.mark_rule(style="matched").encode(x=x),
        *([text.encode(x=x, y=alt.value(0), text="text:N")] if label else []),
    )


def _name_layers(names: Sequence[Mapping[str, Any]], frame: Frame, styles: Styles) -> tuple[alt.Chart, ...]:
    """A thin line from the end of each front to the edge of the frame, and there the arm's mark and name."""
    x, y = _axes(frame)
    at_label = alt.Y("label:Q", scale=_fix(frame.forgetting), title="")
    beside = FULL_WIDTH - NAMES_WIDTH
    chart = alt.Chart(embed(names))
    return (
        chart.mark_rule(strokeWidth=0.8, opacity=0.7).encode(
            x=x, x2="edge:Q", y=y, y2="label:Q", color=_colour(styles)
        ),
        chart.mark_point(size=46, filled=True, opacity=1).encode(
            x=alt.value(beside + 8), y=at_label, color=_colour(styles), shape=_shape(styles)
        ),
        chart.mark_text(style="annotation", align="left", baseline="middle").encode(
            x=alt.value(beside + 18), y=at_label, text="arm:N"
        ),
    )


def _axes(frame: Frame, gain_title: str = "", forgotten_title: str = "") -> tuple[alt.X, alt.Y]:
    """Fixed scales; of several layers the one with a title gives the panel its own."""
    ticks = alt.Axis(tickCount=5)
    return (
        alt.X("gain:Q", title=gain_title, scale=_fix(frame.gain), axis=ticks),
        alt.Y("forgetting:Q", title=forgotten_title, scale=_fix(frame.forgetting), axis=ticks),
    )


def _fix(domain: tuple[float, float]) -> alt.Scale:
    return alt.Scale(domain=list(domain), nice=False)


def _colour(styles: Styles) -> alt.Color:
    scale = alt.Scale(domain=list(styles), range=[style.colour for style in styles.values()])
    return alt.Color("arm:N", scale=scale, legend=None)


def _shape(styles: Styles) -> alt.Shape:
    scale = alt.Scale(domain=list(styles), range=[style.shape for style in styles.values()])
    return alt.Shape("arm:N", scale=scale, legend=None)
