"""The house style of every figure: one type face, one colour and one shape per arm everywhere, ink that can be swapped.

Charts never name the colour of text, axes or rules; they use the styles below. On the page the ink is `currentColor`,
so the same figure follows the reader's light or dark scheme and the printer's paper; in a PNG it is dark on white.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

FONT: Final = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"

# Okabe & Ito 2008 ("Color Universal Design"), without black and yellow, then two more that stay apart from them; all
# have at least 3:1 contrast with both grounds of the page (white-ish and near-black) or carry a shape as well.
ARM_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5CCB", "#A6761D")
CONTROL_COLOUR: Final = "#8A8A8A"
CONTROL_SHAPE: Final = "diamond"
SHAPES: Final = ("circle", "square", "triangle-up", "triangle-down", "cross", "triangle-right")

# Middle tones after Paul Tol's "muted" scheme, which is too dark for a dark ground; roles also differ in shape, and
# never share a figure with arms.
ROLE_COLOURS: Final = (
    "#5B6BD6",
    "#D9667B",
    "#2FA38F",
    "#C9922E",
    "#4FB3E8",
    "#A24E9B",
    "#6E9E2E",
    "#8C6D5A",
    "#7F8C99",
)

KAPPA_SCHEME: Final = "viridis"
EXCESS_SCHEME: Final = "blueorange"


@dataclass(frozen=True, kw_only=True)
class Ink:
    """Colours of text, rules and ground for one medium."""

    text: str
    ground: str | None


SCREEN: Final = Ink(text="currentColor", ground=None)
PAPER: Final = Ink(text="#1d1f24", ground="#ffffff")


@dataclass(frozen=True, kw_only=True)
class ArmStyle:
    """How one arm looks in every figure and table."""

    colour: str
    shape: str


def style_arms(
    arms: Sequence[str], *, control: str | None = None, families: Mapping[str, str] | None = None
) -> Mapping[str, ArmStyle]:
    """A colour and a shape for each arm, in the given order; the control, when there is one, is grey.

    As long as there are enough colours each arm has its own; more arms share that of their family and differ in shape.

    Args:
        arms: their names.
        control: name of the control.
        families: of each arm; without them each is a family by itself.
    """
    rivals = [arm for arm in arms if arm != control]
    few = families is None or len(rivals) <= len(ARM_COLOURS)
    kin = {arm: arm if few or families is None else families[arm] for arm in rivals}
    hues = list(dict.fromkeys(kin.values()))
    styles, members = {}, Counter[str]()
    for index, arm in enumerate(rivals):
        colour = ARM_COLOURS[hues.index(kin[arm]) % len(ARM_COLOURS)]
        styles[arm] = ArmStyle(colour=colour, shape=SHAPES[(index if few else members[colour]) % len(SHAPES)])
        members[colour] += 1
    if control is not None:
        styles[control] = ArmStyle(colour=CONTROL_COLOUR, shape=CONTROL_SHAPE)
    return {arm: styles[arm] for arm in arms}


def house_config(ink: Ink) -> dict[str, Any]:
    """The Vega-Lite `config` that every figure gets."""
    text, ground = ink.text, ink.ground
    return {
        "background": ground,
        "font": FONT,
        "padding": 8,
        "view": {"stroke": None, "continuousWidth": 420, "continuousHeight": 300},
        "title": {
            "anchor": "start",
            "color": text,
            "fontSize": 14,
            "fontWeight": 600,
            "offset": 10,
            "subtitleColor": text,
            "subtitleFontSize": 11,
        },
        "header": {"labelColor": text, "titleColor": text, "labelFontSize": 12, "labelFontWeight": 600},
        "axis": {
            "domainColor": text,
            "domainOpacity": 0.35,
            "grid": True,
            "gridColor": text,
            "gridOpacity": 0.1,
            "labelColor": text,
            "labelFontSize": 12,
            "labelOpacity": 0.85,
            "labelFlush": False,
            "tickColor": text,
            "tickOpacity": 0.35,
            "titleColor": text,
            "titleFontSize": 13,
            "titleFontWeight": "normal",
            "titlePadding": 8,
        },
        "axisBand": {"grid": False, "ticks": False, "domain": False},
        "legend": {
            "labelColor": text,
            "labelFontSize": 12,
            "labelLimit": 260,
            "titleColor": text,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "symbolStrokeWidth": 1.5,
            "symbolOpacity": 1,
            "gradientThickness": 10,
        },
        "style": {
            "reference": {"color": text, "strokeOpacity": 0.5, "strokeDash": [4, 3], "strokeWidth": 1},
            "matched": {"color": text, "strokeOpacity": 0.8, "strokeWidth": 1.2},
            "range": {"color": text, "strokeOpacity": 0.13, "strokeWidth": 13},
            "annotation": {"color": text, "fillOpacity": 0.75, "fontSize": 12},
            "unchosen": {"color": text, "fillOpacity": 0.07},
            "base": {"color": text, "filled": False, "strokeWidth": 1.5},
            "null": {"color": text, "thickness": 2},
        },
    }


def present(chart: Any, ink: Ink) -> dict[str, Any]:
    """A chart's Vega-Lite specification in the house style, for one medium."""
    # Validating a chart against the schema takes longer than drawing it; the tests validate every figure instead.
    spec: dict[str, Any] = chart.to_dict(validate=False)
    spec["config"] = house_config(ink)
    return spec
