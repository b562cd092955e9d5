"""Records -> the plain rows of the HTML page's tables: no markup, no drawing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from oblong.records import Budget, Comparison, Interval, Measures, Plan, Provenance, Rule, Scan, Status, Unit
from oblong.reporting.comparison_tables import OutcomeSection
from oblong.reporting.formats import format_kappa, format_parameters, format_share
from oblong.reporting.gain_tables import GainSection

MAX_MEASURE_ROWS: Final = 2000  # about 1 MB of page; a Scan with more rows keeps its most extreme ones
MEASURE_HEADINGS: Final = (
    "tensor",
    "role",
    "layer",
    "shape",
    "dtype",
    "status",
    "kappa",
    "null kappa",
    "excess",
    "log-volume",
    "entropy gap",
    "stable rank",
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: what is shown, and what it sorts by (numbers before texts, absent last)."""

    text: str
    number: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """An interval as a drawing: places in percent of the width."""

    low: float
    mean: float
    high: float
    zero: float


@dataclass(frozen=True, kw_only=True)
class PlanView:
    """One plan: its rule in words, totals and tensors."""

    name: str
    rule: str
    totals: str
    roles: str
    notes: tuple[str, ...]
    tensors: tuple[tuple[str, str, str, str], ...]


def scan_facts(scan: Scan) -> tuple[tuple[str, str], ...]:
    """What was scanned: label and value."""
    info, config = scan.header.checkpoint, scan.header.config
    num_bytes = sum(file.num_bytes for file in info.files)
    filters = [f"{name} {value}" for name, value in (("include", config.include), ("exclude", config.exclude)) if value]
    facts = (
        ("model", scan.header.model),
        ("architecture", info.architecture or "not stated"),
        ("files", f"{_files(scan)}; {num_bytes / 1e6:,.1f} MB; {info.format}"),
        ("tensors", f"{info.num_tensors:,}"),
        ("parameters", f"{info.num_parameters:,}"),
        ("filters", ", ".join(filters)),
        ("layout", info.layout_digest),
        ("singular values", _describe_values(scan)),
    )
    return tuple((label, value) for label, value in facts if value)


def _describe_values(scan: Scan) -> str:
    """Nothing where none were kept."""
    number = sum(unit.spectrum_digest is not None for unit in scan)
    if not number or scan.has_singular_values:
        return f"all of {number:,} units" if number else ""
    return f"of {number:,} units, but the file beside the Scan is missing: their figure is left out"


def _files(scan: Scan) -> str:
    names = [file.name for file in scan.header.checkpoint.files]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} ... {names[-1]} ({len(names)} files)"


def status_rows(scan: Scan) -> tuple[tuple[str, str, int], ...]:
    """Status, what it means, number of rows; in the order of the vocabulary."""
    counts = Counter(unit.status for unit in scan)
    return tuple((status.value, status.explanation, counts[status]) for status in Status if counts[status])


def measure_rows(scan: Scan) -> tuple[tuple[Cell, ...], ...]:
    """One row of cells per unit, under MEASURE_HEADINGS; at most MAX_MEASURE_ROWS, the extremes of kappa."""
    return tuple(_measure_cells(unit) for unit in shown_units(scan))


def shown_units(scan: Scan) -> tuple[Unit, ...]:
    """All units, or, when they are too many for a page, those with the lowest and the highest kappa."""
    if len(scan) <= MAX_MEASURE_ROWS:
        return scan.units
    ranked = sorted(scan.measured, key=lambda unit: unit.measures.kappa if unit.measures else 0.0)
    half = MAX_MEASURE_ROWS // 2
    kept = {unit.key() for unit in (*ranked[:half], *ranked[-half:])}
    return tuple(unit for unit in scan if unit.key() in kept)


def _measure_cells(unit: Unit) -> tuple[Cell, ...]:
    identity = (
        Cell(text=unit.name),
        Cell(text=unit.role),
        _number(unit.layer, "d"),
        Cell(text=" x ".join(str(size) for size in unit.shape), number=unit.num_parameters),
        Cell(text=unit.dtype),
        Cell(text=unit.status.value, note=unit.reason or unit.status.explanation),
    )
    measures = unit.measures
    if measures is None:
        return (*identity, *[_number(None, "")] * (len(MEASURE_HEADINGS) - len(identity)))
    return (
        *identity,
        _kappa_cell(unit, measures),
        Cell(text=format_kappa(measures.null_kappa), number=measures.null_kappa),
        _number(measures.kappa_excess, "+.3f"),
        _number(measures.log_volume, ".1f"),
        _number(measures.entropy_gap, ".2f"),
        _number(measures.stable_rank, ".2f"),
    )


def _kappa_cell(unit: Unit, measures: Measures) -> Cell:
    text = format_kappa(measures.kappa)
    if measures.resolved:
        return Cell(text=text, number=measures.kappa)
    high = "unbounded" if measures.kappa_high is None else format_kappa(measures.kappa_high)
    note = f"not resolved by {unit.dtype}: between {format_kappa(measures.kappa_low)} and {high}"
    return Cell(text=f"~{text}", number=measures.kappa, note=note)


def _number(value: float | None, specification: str) -> Cell:
    return Cell(text="") if value is None else Cell(text=format(value, specification), number=value)


def outcome_bars(section: OutcomeSection) -> tuple[Bar, ...]:
    """The change of every arm as a bar, all of one section on one scale that holds zero."""
    return tuple(bar for bar in _bars([row.change for row in section.rows]) if bar is not None)


def gain_bars(section: GainSection) -> tuple[Bar | None, ...]:
    """The forgetting of every arm at the common gain likewise; None for an arm that does not get there."""
    return _bars([row.forgetting for row in section.rows])


def _bars(intervals: Sequence[Interval | None]) -> tuple[Bar | None, ...]:
    known = [interval for interval in intervals if interval is not None]
    low = min([0.0, *(interval.low for interval in known)])
    high = max([0.0, *(interval.high for interval in known)])
    return tuple(None if interval is None else _bar(interval, low, (high - low) or 1.0) for interval in intervals)


def _bar(change: Interval, start: float, span: float) -> Bar:
    low, mean, high, zero = (100 * (value - start) / span for value in (change.low, change.mean, change.high, 0.0))
    return Bar(low=low, mean=mean, high=high, zero=zero)


def plan_views(plans: Sequence[Plan]) -> tuple[PlanView, ...]:
    """The plans as they are shown."""
    return tuple(
        PlanView(
            name=plan.name,
            rule=describe_rule(plan.rule),
            totals=f"{plan.totals.num_tensors} tensors, {format_parameters(plan.totals.num_parameters)} parameters, "
            f"{format_share(plan.totals.share)} of the model",
            roles=", ".join(f"{count} {role}" for role, count in plan.totals.by_role.items()),
            notes=plan.notes,
            tensors=tuple(
                (
                    tensor.name,
                    " x ".join(str(size) for size in tensor.shape),
                    "" if tensor.value is None else format(tensor.value, ".4g"),
                    tensor.reason,
                )
                for tensor in plan.tensors
            ),
        )
        for plan in plans
    )


def describe_rule(rule: Rule) -> str:
    """A rule in words: `lowest kappa within each role, budget 5% or 6.7 M parameters`."""
    if rule.criterion == "adapter":
        return "all that the arm's adapter can change"
    criterion = f"random draw, seed {rule.seed}," if rule.criterion == "random" else f"{rule.order} {rule.criterion}"
    scope = {"model": "of the whole model", "role": "within each role", "shape": "within each shape"}[rule.within]
    matched = f", matched in {rule.match.replace('_', ' ')}" if rule.match else ""
    ineligible = ", ineligible tensors included" if rule.include_ineligible else ""
    return f"{criterion} {scope}{matched}, budget {_describe_budget(rule.budget)}{ineligible}"


def _describe_budget(budget: Budget) -> str:
    if budget.unit == "tensors":
        return f"{budget.amount} tensors"
    share = f"{budget.text} or " if budget.text.endswith("%") else ""
    return f"{share}{format_parameters(budget.amount)} parameters"


def provenance_rows(
    *, scan: Scan | None, comparison: Comparison | None, plans: Sequence[Plan]
) -> tuple[tuple[str, str], ...]:
    """Where everything on the page comes from: label and value."""
    return tuple(_provenance(scan, comparison, plans))


def _provenance(scan: Scan | None, comparison: Comparison | None, plans: Sequence[Plan]) -> Iterator[tuple[str, str]]:
    if scan is not None:
        yield "scan", describe_origin(scan.header.provenance)
        yield "scan digest", scan.digest()
    if comparison is not None:
        seeds = sorted({run.seed for run in comparison.runs})
        evaluation = comparison.base
        yield "comparison", describe_origin(comparison.provenance)
        yield "comparison digest", comparison.digest()
        yield "seeds", ", ".join(str(seed) for seed in seeds)
        yield "evaluation", f"window {evaluation.window}, stride {evaluation.stride}, {evaluation.dtype}"
        for name, score in evaluation.corpora.items():
            yield f"corpus {name}", f"{score.data.source}, {score.num_tokens:,} tokens, {score.data.digest}"
    for plan in plans:
        yield f"plan {plan.name}", plan.digest()


def describe_origin(provenance: Provenance) -> str:
    """Versions, platform, time and command of a record."""
    packages = ", ".join(f"{name} {release}" for name, release in provenance.packages.items())
    return (
        f"oblong {provenance.oblong_version}, Python {provenance.python_version}, {packages}; {provenance.platform}; "
        f"{provenance.created}; command: {' '.join(provenance.command) or 'not recorded'}"
    )
