"""Rows -> Altair charts, one function per figure. Data is embedded; nothing is fetched when a chart is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import altair as alt

from oblong.records import Comparison, Plan, Scan
from oblong.reporting.chart_rows import (
    Row,
    heat_rows,
    loss_rows,
    mean_loss_rows,
    mosaic_rows,
    null_labels,
    null_rows,
    order_roles,
    seed_rows,
    trade_panels,
    trade_rows,
    unresolved_ranges,
)
from oblong.reporting.theme import ARM_COLOURS, EXCESS_SCHEME, KAPPA_SCHEME, ROLE_COLOURS, SHAPES, ArmStyle

FULL_WIDTH: Final = 820
CELL_HEIGHT: Final = 26
MAX_SHAPE_LABELS: Final = 8  # beyond this the labels of the shapes would overlap
ROUND_NUMBER: Final = ".3~g"

NAMES_PER_ROW: Final = 4  # of a legend that does not fit into one line
SHARE_AXIS: Final = alt.Axis(format=".0%")
GAPS: Final = alt.Scale(paddingInner=0.06)

Styles = Mapping[str, ArmStyle]


def kappa_heat_map(scan: Scan) -> alt.Chart:
    """Condition number, layers x roles, on a log colour scale."""
    colour = alt.Color(
        "kappa:Q",
        scale=alt.Scale(type="log", scheme=KAPPA_SCHEME),
        legend=_colour_bar("kappa (log scale)", "~s"),
    )
    return _heat_map(scan, colour)


def excess_heat_map(scan: Scan) -> alt.Chart:
    """kappa_excess = ln(kappa / null), layers x roles, on a diverging scale centred at 0."""
    rows = heat_rows(scan)
    reach = max((abs(row["kappa_excess"]) for row in rows), default=1.0) or 1.0
    colour = alt.Color(
        "kappa_excess:Q",
        scale=alt.Scale(scheme=EXCESS_SCHEME, domain=[-reach, reach], domainMid=0),
        legend=_colour_bar("ln(kappa / null)", "+.1f"),
    )
    return _heat_map(scan, colour)


def _heat_map(scan: Scan, colour: alt.Color) -> alt.Chart:
    rows = heat_rows(scan)
    roles = order_roles(rows)
    base = alt.Chart(embed(rows)).encode(
        x=alt.X("layer:O", title="layer", axis=_layer_axis(_num_layers(rows), max_labels=40), scale=GAPS),
        y=alt.Y("role:N", title=None, sort=roles, scale=GAPS),
        tooltip=[
            alt.Tooltip("layer:O"),
            alt.Tooltip("role:N"),
            alt.Tooltip("kappa:Q", format=ROUND_NUMBER),
            alt.Tooltip("null_kappa:Q", title="null kappa", format=ROUND_NUMBER),
            alt.Tooltip("kappa_excess:Q", title="excess", format="+.2f"),
            alt.Tooltip("stable_rank:Q", title="stable rank", format=ROUND_NUMBER),
            alt.Tooltip("units:Q"),
            alt.Tooltip("unresolved:Q"),
        ],
    )
    cells = base.mark_rect().encode(color=colour)
    unresolved = base.mark_point(
        shape="circle", size=12, filled=True, color="white", opacity=0.95, stroke="black", strokeWidth=0.5
    ).transform_filter("datum.unresolved > 0")
    return (cells + unresolved).properties(width=FULL_WIDTH, height=CELL_HEIGHT * max(len(roles), 1))


def null_scatter(scan: Scan) -> alt.Chart:
    """Kappa against the median kappa of Gaussian matrices of the same shape; log-log, with the line of equality."""
    rows = null_rows(scan)
    labels = null_labels(rows)
    tallest = max((len(label["shapes"]) for label in labels), default=0)
    x_domain = _log_domain([row["x"] for row in rows])
    y_domain = _log_domain([value for row in rows for value in (row["kappa"], row["kappa_low"], row["null_kappa"])])
    x = alt.X(
        "x:Q",
        scale=alt.Scale(type="log", domain=x_domain, nice=False),
        title="median kappa of a random matrix of the same shape",
        axis=_log_axis(x_domain),
    )
    y = alt.Y(
        "kappa:Q",
        scale=alt.Scale(type="log", domain=y_domain, nice=False),
        title="kappa of the tensor",
        axis=_log_axis(y_domain),
    )
    ends = [{"x": end, "kappa": end} for end in (max(x_domain[0], y_domain[0]), min(x_domain[1], y_domain[1]))]
    line = alt.Chart(embed(ends)).mark_line(style="reference").encode(x=x, y=y)
    layers = [line, _unresolved_ranges(rows, x, y), _null_points(rows, x, y), _null_ticks(rows, x, y)]
    if tallest <= MAX_SHAPE_LABELS:
        layers.append(_shape_labels(labels, x, height=14 * tallest))
    return alt.layer(*layers).properties(width=FULL_WIDTH - 60, height=380)


def _null_points(rows: Sequence[Row], x: alt.X, y: alt.Y) -> alt.Chart:
    roles = order_roles(rows)
    colours = [ROLE_COLOURS[index % len(ROLE_COLOURS)] for index in range(len(roles))]
    shapes = [SHAPES[index % len(SHAPES)] for index in range(len(roles))]
    legend = alt.Legend(title="role", symbolSize=70)
    return (
        alt.Chart(embed(rows))
        .mark_point(size=36, opacity=0.8, strokeWidth=1.2)
        .encode(
            x=x,
            y=y,
            color=alt.Color("role:N", scale=alt.Scale(domain=roles, range=colours), sort=roles, legend=legend),
            shape=alt.Shape("role:N", scale=alt.Scale(domain=roles, range=shapes), sort=roles, legend=legend),
            tooltip=[
                alt.Tooltip("name:N"),
                alt.Tooltip("shape:N"),
                alt.Tooltip("kappa:Q", format=ROUND_NUMBER),
                alt.Tooltip("null_kappa:Q", title="null kappa", format=ROUND_NUMBER),
                alt.Tooltip("resolved:N"),
            ],
        )
    )


def _null_ticks(rows: Sequence[Row], x: alt.X, y: alt.Y) -> alt.Chart:
    columns = {row["x"]: row["null_kappa"] for row in rows}
    ticks = [{"x": place, "kappa": null} for place, null in sorted(columns.items())]
    return alt.Chart(embed(ticks)).mark_tick(style="null", orient="horizontal", size=15).encode(x=x, y=y)


def _unresolved_ranges(rows: Sequence[Row], x: alt.X, y: alt.Y) -> alt.Chart:
    return alt.Chart(embed(unresolved_ranges(rows))).mark_rule(style="range").encode(x=x, y=y, y2="to:Q")


def _shape_labels(labels: Sequence[Row], x: alt.X, *, height: int) -> alt.Chart:
    return (
        alt.Chart(embed(labels))
        .mark_text(style="annotation", baseline="top", lineHeight=14)
        .encode(x=x, y=alt.value(-6 - height), text="shapes:N")
    )


def trade_off_chart(comparison: Comparison, styles: Styles) -> alt.Chart:
    """Learning against forgetting: one panel per general corpus, the base at the origin, intervals both ways."""
    panels = [_trade_panel(comparison, new_domain, general, styles) for new_domain, general in trade_panels(comparison)]
    return alt.concat(*panels, columns=2, spacing=28).resolve_scale(x="shared", y="shared")


def _trade_panel(comparison: Comparison, new_domain: str, general: str, styles: Styles) -> alt.Chart:
    x_title = f"improvement on {new_domain}, nats per token"
    y_title = "change of loss, nats per token"
    x = alt.X("gain:Q", title=x_title, axis=alt.Axis(tickCount=6))
    y = alt.Y("change:Q", title=y_title, axis=alt.Axis(tickCount=7))
    colour, shape = _arm_colour(comparison.arms, styles), _arm_shape(comparison.arms, styles)
    arms = alt.Chart(embed(trade_rows(comparison, new_domain, general)))
    tooltip = ["arm:N", alt.Tooltip("gain:Q", format="+.4f"), alt.Tooltip("change:Q", format="+.4f")]
    origin = alt.Chart(embed([{"gain": 0, "change": 0, "text": "base"}]))
    seeds = alt.Chart(embed(seed_rows(comparison, new_domain, general)))
    return alt.layer(
        origin.mark_rule(style="reference").encode(x="gain:Q"),
        origin.mark_rule(style="reference").encode(y="change:Q"),
        seeds.mark_point(size=30, opacity=0.55, filled=True, strokeWidth=0).encode(
            x=x, y=y, color=colour, shape=shape, tooltip=[*tooltip, "seed:N"]
        ),
        arms.mark_rule(strokeWidth=1.6).encode(
            x=alt.X("gain_low:Q", title=x_title), x2="gain_high:Q", y=y, color=colour
        ),
        arms.mark_rule(strokeWidth=1.6).encode(
            x=x, y=alt.Y("change_low:Q", title=y_title), y2="change_high:Q", color=colour
        ),
        arms.mark_point(size=95, filled=True, opacity=1).encode(x=x, y=y, color=colour, shape=shape, tooltip=tooltip),
        origin.mark_point(style="base", shape="cross", size=60).encode(x=x, y=y),
        origin.mark_text(style="annotation", align="left", dx=7, dy=-9).encode(x=x, y=y, text="text:N"),
    ).properties(width=FULL_WIDTH // 2 - 48, height=300, title=general)


def plan_mosaic(plans: Sequence[Plan], scan: Scan | None, styles: Styles) -> alt.Chart:
    """Which tensors each plan trains: layers x roles, one panel per plan."""
    rows = mosaic_rows(plans, scan)
    roles = order_roles(rows)
    panels = [_mosaic_panel([row for row in rows if row["plan"] == plan.name], plan, roles, styles) for plan in plans]
    return alt.concat(*panels, columns=2, spacing=24)


def _mosaic_panel(rows: Sequence[Row], plan: Plan, roles: Sequence[str], styles: Styles) -> alt.Chart:
    base = alt.Chart(embed(rows)).encode(
        x=alt.X("layer:O", title="layer", axis=_layer_axis(_num_layers(rows), max_labels=12), scale=GAPS),
        y=alt.Y("role:N", title=None, sort=list(roles), scale=GAPS),
        tooltip=["layer:O", "role:N", "chosen:Q", "of:Q"],
    )
    chosen = (
        base.mark_rect(color=styles[plan.name].colour, stroke=None)
        .transform_filter("datum.chosen > 0")
        .transform_calculate(share="datum.chosen / datum.of")
        .encode(opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.25, 1]), legend=None))
    )
    layers = alt.layer(base.mark_rect(style="unchosen"), chosen)
    return layers.properties(width=FULL_WIDTH // 2 - 40, height=18 * max(len(roles), 1), title=plan.name)


def loss_curves(comparison: Comparison, styles: Styles) -> alt.Chart:
    """Training loss per arm: the mean over seeds, and every seed faintly."""
    x = alt.X("step:Q", title="training step")
    y = alt.Y("loss:Q", title="training loss, nats per token", scale=alt.Scale(zero=False))
    colour = _arm_colour(comparison.arms, styles)
    seeds = (
        alt.Chart(embed(loss_rows(comparison)))
        .mark_line(strokeWidth=1, opacity=0.35)
        .encode(x=x, y=y, color=colour, detail="seed:N")
    )
    means = (
        alt.Chart(embed(mean_loss_rows(comparison)))
        .mark_line(strokeWidth=2)
        .encode(x=x, y=y, color=colour, tooltip=["arm:N", "step:Q", alt.Tooltip("loss:Q", format=".4f")])
    )
    return alt.layer(seeds, means).properties(width=FULL_WIDTH, height=300)


def spectrum_curves(rows: Sequence[Row], styles: Styles) -> alt.Chart:
    """Singular values of some tensors, one line each in the colour of their plan; see `list_curves`."""
    domain = _log_domain([row["value"] for row in rows])
    return (
        alt.Chart(embed(rows))
        .mark_line(strokeWidth=1.5, opacity=0.7)
        .encode(
            x=alt.X("share:Q", title="share of the singular values", scale=alt.Scale(domain=[0, 1]), axis=SHARE_AXIS),
            y=alt.Y(
                "value:Q",
                title="singular value / root mean square",
                scale=alt.Scale(type="log", domain=domain, nice=False),
                axis=_log_axis(domain),
            ),
            color=_arm_colour(list(dict.fromkeys(row["arm"] for row in rows)), styles),
            detail="name:N",
            tooltip=["arm:N", "name:N", alt.Tooltip("share:Q", format=".0%"), alt.Tooltip("value:Q", format=".3g")],
        )
        .properties(width=FULL_WIDTH - 60, height=320)
    )


def arm_legend(arms: Sequence[str]) -> alt.Legend:
    """The arms above a chart, in rows where they are many."""
    columns = NAMES_PER_ROW if len(arms) > len(ARM_COLOURS) + 1 else 0
    return alt.Legend(title=None, symbolSize=80, orient="top", columns=columns)


def _arm_colour(arms: Sequence[str], styles: Styles) -> alt.Color:
    scale = alt.Scale(domain=list(arms), range=[styles[arm].colour for arm in arms])
    return alt.Color("arm:N", scale=scale, sort=list(arms), legend=arm_legend(arms))


def _arm_shape(arms: Sequence[str], styles: Styles) -> alt.Shape:
    scale = alt.Scale(domain=list(arms), range=[styles[arm].shape for arm in arms])
    return alt.Shape("arm:N", scale=scale, sort=list(arms), legend=arm_legend(arms))


def _colour_bar(title: str, number_format: str) -> alt.Legend:
    return alt.Legend(title=title, orient="top", direction="horizontal", gradientLength=260, format=number_format)


def _layer_axis(num_layers: int, *, max_labels: int) -> alt.Axis:
    step = -(-num_layers // max_labels) or 1
    return alt.Axis(labelAngle=0, labelExpr=f"datum.value % {step} == 0 ? datum.label : ''")


def _log_domain(values: Sequence[float]) -> list[float]:
    return [min(values, default=1.0) / 1.5, max(values, default=10.0) * 1.5]


def _log_axis(domain: Sequence[float]) -> alt.Axis:
    """Ticks at the powers of ten; at 1, 2 and 5 where the scale spans little."""
    powers = range(math.floor(math.log10(domain[0])), math.ceil(math.log10(domain[1])) + 1)
    steps = (1, 2, 5) if len(powers) < 5 else (1,)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return alt.Axis(format="~s", values=[tick for tick in ticks if domain[0] <= tick <= domain[1]])


def _num_layers(rows: Sequence[Row]) -> int:
    return 1 + max((row["layer"] for row in rows), default=0)


def embed(rows: Sequence[Mapping[str, Any]]) -> alt.Data:
    """Rows as the data of a chart."""
    return alt.Data(values=[dict(row) for row in rows])
