"""Records -> one self-contained HTML page.

The page brings its own scripts, styles and data. A content security policy forbids every request and every script but
the two that are part of it (by their hashes), so nothing that a checkpoint puts into a tensor's name can load or run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from oblong.errors import OutputExistsError, PlanMismatchError, UserError
from oblong.records import Comparison, Plan, Scan
from oblong.records.base import replace_on_success
from oblong.reporting.comparison_tables import (
    COST_CAPTION,
    COST_HEADINGS,
    cost_cells,
    cost_rows,
    outcome_caption,
    outcome_cells,
    outcome_sections,
)
from oblong.reporting.figures import (
    VEGA_LITE_VERSION,
    build_figures,
    check_figures,
    style_report,
    write_figures,
)
from oblong.reporting.gain_tables import (
    GAIN_HEADINGS,
    GainSection,
    describe_hypervolume,
    gain_caption,
    gain_cells,
    gain_sections,
    section_title,
)
from oblong.reporting.glossary import GLOSSARY
from oblong.reporting.markup import SHAPE_PATHS, content_security_policy, mark_interval, to_script_json, true_minus
from oblong.reporting.noise_floors import has_noise
from oblong.reporting.page_rows import (
    MEASURE_HEADINGS,
    gain_bars,
    measure_rows,
    outcome_bars,
    plan_views,
    provenance_rows,
    scan_facts,
    status_rows,
)
from oblong.reporting.reading import Topic, read_comparison
from oblong.reporting.relearning_tables import (
    RELEARNING_HEADINGS,
    list_relearned,
    relearning_caption,
    relearning_cells,
)
from oblong.reporting.relearning_tables import is_decided as is_relearning_decided
from oblong.reporting.scan_reading import read_scan
from oblong.reporting.sequence_tables import (
    MEASURE_HEADINGS as SEQUENCE_HEADINGS,
)
from oblong.reporting.sequence_tables import (
    matrix_caption,
    matrix_sections,
    measure_caption,
    measure_cells,
    measure_sections,
)
from oblong.reporting.suite_tables import (
    ANSWER_CAPTION,
    ANSWER_HEADINGS,
    answer_cells,
    describe_answers,
    is_significant_change,
)
from oblong.reporting.theme import SCREEN

TEMPLATE: Final = "report.html.j2"


def render_report(
    *,
    scan: Scan | None = None,
    comparison: Comparison | None = None,
    plans: Sequence[Plan] = (),
    title: str | None = None,
) -> str:
    """The page as a string; the same records give the same bytes.

    Args:
        scan: what was measured; its sections are left out without it.
        comparison: what came out; its arms' plans are shown too.
        plans: further plans to show.
        title: heading of the page; by default it names the model.

    Raises:
        UserError: no record at all, or two different plans of one name.
        PlanMismatchError: the records speak of different models.
    """
    plans = collect_plans(comparison, plans)
    check_one_model(scan, plans)
    page_script = read_template("report.js")
    context = {
        "title": title or _default_title(scan, comparison, plans),
        "policy": content_security_policy(vega_bundle(), page_script),
        "style": Markup(read_template("report.css")),
        "vega_bundle": Markup(vega_bundle()),
        "page_script": Markup(page_script),
        "arm_styles": style_report(comparison, plans),
        "shape_paths": SHAPE_PATHS,
        "plans": plan_views(plans),
        "provenance": provenance_rows(scan=scan, comparison=comparison, plans=plans),
        "glossary": GLOSSARY,
        **_comparison_context(comparison),
        **_scan_context(scan),
        **_figure_context(scan, comparison, plans),
    }
    return page_environment().get_template(TEMPLATE).render(context)


def write_report(
    path: Path,
    *,
    scan: Scan | None = None,
    comparison: Comparison | None = None,
    plans: Sequence[Plan] = (),
    title: str | None = None,
    png_directory: Path | None = None,
    force: bool = False,
) -> tuple[Path, ...]:
    """Write the page, and every figure as PNG and SVG into `png_directory` when one is given.

    Returns:
        The files written, the page first.

    Raises:
        UserError, PlanMismatchError: as `render_report`.
        OutputExistsError: an output exists and `force` is false; nothing is written then.
        OutputWriteError: the disk is full or the place is not writable.
    """
    figures = build_figures(scan=scan, comparison=comparison, plans=collect_plans(comparison, plans))
    if path.exists() and not force:
        raise OutputExistsError(path)
    if png_directory is not None:
        check_figures(png_directory, figures, force=force)
    page = render_report(scan=scan, comparison=comparison, plans=plans, title=title)
    with replace_on_success(path, force=force) as file:
        file.write(page)
    return (path, *(write_figures(png_directory, figures, force=force) if png_directory is not None else ()))


def collect_plans(comparison: Comparison | None, plans: Sequence[Plan]) -> tuple[Plan, ...]:
    """The arms' plans under the arms' names, then the other plans; one plan given twice is shown once."""
    collected: dict[str, Plan] = {}
    if comparison is not None:
        collected = {arm: plan.model_copy(update={"name": arm}) for arm, plan in comparison.plans.items()}
    for plan in plans:
        known = collected.setdefault(plan.name, plan)
        if known.tensors != plan.tensors:
            raise UserError(f"two different plans are called {plan.name!r}: rename one of them to show both")
    return tuple(collected.values())


def check_one_model(scan: Scan | None, plans: Sequence[Plan]) -> None:
    """Refuse a page that would mix models."""
    layouts = {plan.name: plan.layout_digest for plan in plans}
    expected = scan.header.checkpoint.layout_digest if scan is not None else next(iter(layouts.values()), None)
    strangers = [name for name, layout in layouts.items() if layout != expected]
    if strangers:
        subject = f"the Scan of {scan.header.model}" if scan is not None else f"the plan {plans[0].name!r}"
        raise PlanMismatchError(
            f"the plan {strangers[0]!r} was made for a model with other tensors than {subject}: "
            "report records of one model at a time"
        )


def _default_title(scan: Scan | None, comparison: Comparison | None, plans: Sequence[Plan]) -> str:
    if comparison is not None:
        return f"{comparison.model}: what was learned, what was kept"
    if scan is not None:
        return f"{scan.header.model}: which weights are round, which are oblong"
    if plans:
        return f"{plans[0].model}: which weights would train"
    raise UserError("there is nothing to report: give a Scan, a Comparison or a Plan")


def fill_cells(section: GainSection) -> list[tuple[str, ...]]:
    """The cells of each row."""
    return [gain_cells(row, all_improved=section.all_improved) for row in section.rows]


def _comparison_context(comparison: Comparison | None) -> dict[str, Any]:
    if comparison is None:
        return {"comparison": None}
    sections = gain_sections(comparison)
    return {
        "comparison": comparison,
        "gains": [
            (section, list(zip(section.rows, fill_cells(section), gain_bars(section), strict=True)))
            for section in sections
        ],
        **_sequence_context(comparison),
        "gain_headings": GAIN_HEADINGS,
        "gain_caption": f"{gain_caption(comparison, sections)} {describe_hypervolume(sections)}" if sections else "",
        "section_title": section_title,
        "has_noise": has_noise(comparison),
        "reading": read_comparison(comparison),
        "topics": tuple(Topic),
        "outcomes": [
            (section, list(zip(section.rows, map(outcome_cells, section.rows), outcome_bars(section), strict=True)))
            for section in outcome_sections(comparison)
        ],
        "outcome_caption": outcome_caption(comparison),
        "cost_headings": COST_HEADINGS,
        "cost_caption": COST_CAPTION,
        "costs": [(row, cost_cells(row)) for row in cost_rows(comparison)],
        "answer_headings": ANSWER_HEADINGS,
        "answer_caption": ANSWER_CAPTION,
        "answers": [
            (change.arm, is_significant_change(change), answer_cells(comparison, change))
            for change in comparison.answers
        ],
        "answer_reading": describe_answers(comparison.answers),
    }


def _sequence_context(comparison: Comparison) -> dict[str, Any]:
    sequence = comparison.sequence
    return {
        "sequence": sequence,
        "matrices": () if sequence is None else matrix_sections(sequence),
        "matrix_caption": "" if sequence is None else matrix_caption(sequence),
        "measured": [
            (section, [(row, measure_cells(row)) for row in section.rows]) for section in measure_sections(comparison)
        ],
        "sequence_headings": SEQUENCE_HEADINGS,
        "sequence_caption": measure_caption(comparison),
        "relearned": [
            (text, [(entry, relearning_cells(entry), is_relearning_decided(entry)) for entry in entries])
            for text, entries in list_relearned(comparison)
        ],
        "relearning_headings": RELEARNING_HEADINGS,
        "relearning_caption": relearning_caption(comparison),
    }


def _scan_context(scan: Scan | None) -> dict[str, Any]:
    if scan is None:
        return {"scan": None}
    return {
        "scan": scan,
        "scan_reading": read_scan(scan),
        "scan_facts": scan_facts(scan),
        "statuses": status_rows(scan),
        "measure_headings": MEASURE_HEADINGS,
        "measures": measure_rows(scan),
    }


def _figure_context(scan: Scan | None, comparison: Comparison | None, plans: Sequence[Plan]) -> dict[str, Any]:
    figures = build_figures(scan=scan, comparison=comparison, plans=plans)
    specs = {figure.key: figure.spec(SCREEN) for figure in figures}
    return {"figures": {figure.key: figure for figure in figures}, "specs": to_script_json(specs)}


@cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the installed vl-convert."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE_VERSION)
    return bundle


@cache
def page_environment() -> Environment:
    """The templates: everything that comes from a record is escaped."""
    environment = Environment(
        loader=PackageLoader("oblong.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"minus": true_minus, "interval": mark_interval}
    return environment


def read_template(name: str) -> str:
    """A style sheet or script of the page."""
    return (resources.files("oblong.reporting") / "templates" / name).read_text(encoding="utf-8")
