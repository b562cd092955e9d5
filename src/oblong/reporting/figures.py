"""The figures of a report in reading order, and their export as PNG and SVG."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import vl_convert

from oblong.errors import OutputExistsError
from oblong.records import Comparison, Plan, Scan
from oblong.records.base import explain_write_errors
from oblong.reporting.arms import family_of
from oblong.reporting.chart_rows import heat_rows, laid_out_units, null_rows, trade_panels
from oblong.reporting.charts import (
    excess_heat_map,
    kappa_heat_map,
    loss_curves,
    null_scatter,
    plan_mosaic,
    spectrum_curves,
    trade_off_chart,
)
from oblong.reporting.front_charts import each_arm_chart, fronts_chart, has_many_arms
from oblong.reporting.front_rows import count_outside
from oblong.reporting.spectrum_rows import TENSORS_PER_PLAN, list_curves
from oblong.reporting.theme import PAPER, ArmStyle, Ink, present, style_arms
from oblong.reporting.verdicts import join_names

VEGA_LITE_VERSION: Final = "6.4"
PNG_SCALE: Final = 2.0
SUFFIXES: Final = (".png", ".svg")
FRONTS: Final = "Bold: an arm's front, the states that no other state of the arm beats."
THIN_LINES: Final = " Thin: one learning rate along its training, mean over seeds."


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One chart with its words. `key` names its place on the page and its file."""

    key: str
    title: str
    caption: str
    alt_text: str
    chart: Any

    def spec(self, ink: Ink) -> dict[str, Any]:
        """The Vega-Lite specification for one medium; the text alternative travels with it."""
        return {**present(self.chart, ink), "description": self.alt_text}


def build_figures(
    *, scan: Scan | None = None, comparison: Comparison | None = None, plans: Sequence[Plan] = ()
) -> tuple[Figure, ...]:
    """Every figure that these records allow, in reading order."""
    styles = style_report(comparison, plans)
    return (
        *_front_figures(comparison, styles),
        *_comparison_figures(comparison, styles),
        *_scan_figures(scan),
        *_plan_figures(plans, scan, styles),
        *_spectrum_figures(plans, scan, styles),
        *_training_figures(comparison, styles),
    )


def style_report(comparison: Comparison | None, plans: Sequence[Plan]) -> dict[str, ArmStyle]:
    """One colour and shape per arm and plan; arms first, so that adding a plan recolours nobody."""
    arms = {arm: family_of(comparison, arm) for arm in comparison.arms} if comparison else {}
    families = arms | {plan.name: plan.rule.criterion for plan in plans if plan.name not in arms}
    control = comparison.control if comparison and comparison.control in families else None
    return dict(style_arms(list(families), control=control, families=families))


def _front_figures(comparison: Comparison | None, styles: dict[str, ArmStyle]) -> Iterator[Figure]:
    if comparison is None or not comparison.retention:
        return
    num_outside = sum(map(count_outside, comparison.retention))
    outside = f" {num_outside} states that forgot or lost too much lie outside the frames." if num_outside else ""
    compared = any(retention.gain is not None for retention in comparison.retention)
    line = " The vertical line is the gain at which arms are compared." if compared else ""
    many = has_many_arms(comparison)
    kin = " Arms of one colour choose by one criterion or share a method." if many else THIN_LINES
    yield Figure(
        key="learning-forgetting-fronts",
        title="Learning-forgetting fronts",
        caption=f"To the right: more learned. Up: more forgotten. The cross is the base model. {FRONTS}{kin}{line}"
        + outside,
        alt_text="For each arm, forgetting against the gain on the new domain along training, one line per learning "
        "rate, with the arm's front; the table above holds the numbers at the gain where arms are compared.",
        chart=fronts_chart(comparison, styles),
    )
    if many:
        yield Figure(
            key="each-arm",
            title="Each arm against the control",
            caption=f"The same for {join_names(comparison.retention[0].corpora)}, arm by arm.{THIN_LINES} Grey: the "
            f"front of the control, {comparison.control}.",
            alt_text="One small panel per arm with forgetting against gain: its learning rates, its front, and the "
            "control's front.",
            chart=each_arm_chart(comparison, styles),
        )


def _comparison_figures(comparison: Comparison | None, styles: dict[str, ArmStyle]) -> Iterator[Figure]:
    if comparison is None or not trade_panels(comparison):
        return
    yield Figure(
        key="learning-against-forgetting",
        title="Learning against forgetting",
        caption="To the right: more learned. Up: more forgotten. The cross is the base model. Large marks pool the "
        "seeds, with intervals in both directions; small marks are single seeds. All panels share their scales.",
        alt_text="Scatter plot of each arm's improvement on the new domain against its change of loss on general text, "
        "with intervals; the table above holds the same numbers.",
        chart=trade_off_chart(comparison, styles),
    )


def _scan_figures(scan: Scan | None) -> Iterator[Figure]:
    if scan is None:
        return
    if heat_rows(scan):
        num_unresolved = sum(row["unresolved"] > 0 for row in heat_rows(scan))
        dots = " A white dot marks a kappa that the storage format does not resolve." if num_unresolved else ""
        left_out = len(scan.measured) - len(laid_out_units(scan))
        note = f" {left_out} measured outside the layers (embeddings, heads) not shown." if left_out else ""
        yield Figure(
            key="kappa-map",
            title="Condition number by layer and role",
            caption=f"Dark is round, bright is oblong.{dots}{note}",
            alt_text="Heat map of the condition number, layers across, roles down, on a logarithmic colour scale.",
            chart=kappa_heat_map(scan),
        )
        yield Figure(
            key="excess-map",
            title="The same, beyond what the shape explains",
            caption="ln(kappa / null): 0 is what a Gaussian matrix of the same shape has, +1 is e times as much."
            + dots,
            alt_text="Heat map of the excess of the condition number over its shape's null, on a colour scale centred "
            "at zero, layers across, roles down.",
            chart=excess_heat_map(scan),
        )
    if null_rows(scan):
        unresolved = any(not row["resolved"] for row in null_rows(scan))
        shade = " The grey shade reaches down to what an unresolved kappa may have been." if unresolved else ""
        yield Figure(
            key="kappa-against-null",
            title="kappa against the null for its shape",
            caption="One mark per eligible tensor; the bar in each column is the null itself: above it a tensor is "
            "more oblong than a random matrix of its shape. The dashed line is kappa = null. Roles that share a null, "
            "or nearly so, are drawn side by side." + shade,
            alt_text="Log-log scatter plot of each tensor's condition number against the median condition number of "
            "random matrices of its shape, by role, with the line of equality.",
            chart=null_scatter(scan),
        )


def _plan_figures(plans: Sequence[Plan], scan: Scan | None, styles: dict[str, ArmStyle]) -> Iterator[Figure]:
    if any(tensor.layer is not None for plan in plans for tensor in plan.tensors):
        yield Figure(
            key="plans",
            title="Which tensors each plan trains",
            caption="Filled: trains. Pale: eligible, stays frozen.",
            alt_text="One panel per plan: the cells of a layers x roles grid whose tensors train are filled.",
            chart=plan_mosaic(plans, scan, styles),
        )


def _spectrum_figures(plans: Sequence[Plan], scan: Scan | None, styles: dict[str, ArmStyle]) -> Iterator[Figure]:
    if scan is None or not scan.has_singular_values or not (rows := list_curves(scan, plans)):
        return
    yield Figure(
        key="spectra",
        title="Singular values of what the plans train",
        caption=f"At most {TENSORS_PER_PLAN} tensors per plan, spread evenly over it; random plans are left out. "
        "A round tensor is a flat line. Only lines of one shape can be compared at their ends: kappa is mostly decided "
        "by shape.",
        alt_text="One line per tensor in the colour of its plan: singular values over their root mean square, from "
        "the largest to the smallest, on a logarithmic scale.",
        chart=spectrum_curves(rows, styles),
    )


def _training_figures(comparison: Comparison | None, styles: dict[str, ArmStyle]) -> Iterator[Figure]:
    if comparison is None or not any(run.run.history for run in comparison.runs):
        return
    yield Figure(
        key="training-loss",
        title="Training loss",
        caption="Bold: mean over the seeds. Faint: single seeds."
        + (" The tasks follow one another." if comparison.sequence else ""),
        alt_text="Training loss against step, one line per arm.",
        chart=loss_curves(comparison, styles),
    )


def render_png(figure: Figure) -> bytes:
    """The figure as PNG, dark on white, two pixels per point."""
    spec = figure.spec(PAPER)
    png: bytes = vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE_VERSION, scale=PNG_SCALE, allowed_base_urls=[])
    return png


def render_svg(figure: Figure) -> str:
    """The figure as SVG, dark on white."""
    spec = figure.spec(PAPER)
    svg: str = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE_VERSION, allowed_base_urls=[])
    return svg


def write_figures(directory: Path, figures: Sequence[Figure], *, force: bool = False) -> tuple[Path, ...]:
    """Write `KEY.png` and `KEY.svg` of every figure; nothing is written when one of them exists already.

    Raises:
        OutputExistsError: an output exists and `force` is false.
        OutputWriteError: the disk is full or the place is not writable.
    """
    check_figures(directory, figures, force=force)
    for figure in figures:
        _write_bytes(directory / f"{figure.key}.png", render_png(figure))
        _write_bytes(directory / f"{figure.key}.svg", render_svg(figure).encode())
    return figure_paths(directory, figures)


def figure_paths(directory: Path, figures: Sequence[Figure]) -> tuple[Path, ...]:
    """The files that `write_figures` makes."""
    return tuple(directory / f"{figure.key}{suffix}" for figure in figures for suffix in SUFFIXES)


def check_figures(directory: Path, figures: Sequence[Figure], *, force: bool) -> None:
    """Refuse to overwrite before any work is done."""
    for path in figure_paths(directory, figures):
        if path.exists() and not force:
            raise OutputExistsError(path)


def _write_bytes(path: Path, data: bytes) -> None:
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
