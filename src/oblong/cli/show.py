"""`oblong show`: print a record as tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from oblong.cli.scan import show_summary
from oblong.cli.terminal import note, print_json, stdout
from oblong.errors import RecordError, SelectionError

if TYPE_CHECKING:
    from oblong.records import Scan, Unit
    from oblong.reporting.scan_tables import UnitFilter

DEFAULT_SORT: Final = "kappa"
NUM_SHOWN: Final = 30


def show(
    file: Annotated[Path, typer.Argument(help="A record: Scan, Plan, Run, Evaluation or Comparison.")],
    unit: Annotated[
        str | None, typer.Argument(help="One unit of a Scan, by its name: all its measures and its singular values.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="Field to sort by: kappa, kappa_excess, entropy_gap, stable_rank, name, ...")
    ] = None,
    role: Annotated[str | None, typer.Option(help="Only this role: q, k, v, o, gate, up, down, ...")] = None,
    layer: Annotated[str | None, typer.Option(help="Only this layer, or these: 3 or 3-7.")] = None,
    status: Annotated[str | None, typer.Option(help="Only this status: ok, rank_deficient, vector, ...")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="The N units with the highest value.")] = None,
    bottom: Annotated[int | None, typer.Option(min=1, help="The N units with the lowest value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print a record as tables; a Scan can be sorted and filtered, or shown one unit at a time.

    Example: oblong show demo.scan.jsonl --role down --layer 20-29 --sort kappa --bottom 5
    """
    kind = read_kind(file)
    if kind != "oblong.scan":
        if unit is not None:
            raise SelectionError(f"{file} is a {kind!r} record: only of a Scan one unit can be shown")
        show_other(kind, file, as_json=as_json)
        return
    from oblong.records import Scan
    from oblong.reporting.scan_tables import UnitFilter

    scan = Scan.read(file)
    if unit is not None:
        if role or layer or status or sort or top or bottom:
            raise SelectionError("--role, --layer, --status, --sort, --top and --bottom do not go with one unit")
        show_unit(scan, unit, as_json=as_json)
        return
    first_layer, last_layer = parse_layers(layer)
    wanted = UnitFilter(role=role, first_layer=first_layer, last_layer=last_layer, status=parse_status(status))
    sections = list_sections(scan, wanted, sort=sort, top=top, bottom=bottom)
    if as_json:
        print_json(render_json(scan, sections))
        return
    if sort is None and top is None and bottom is None and wanted == UnitFilter():
        show_summary(scan)
    else:
        show_sections(sections, sort=sort or DEFAULT_SORT, limit=None if top or bottom else NUM_SHOWN)


def show_unit(scan: Scan, name: str, *, as_json: bool) -> None:
    """Print all about one unit; why its singular values are not shown, where they are not, goes to stderr.

    Raises:
        SelectionError: no such unit.
        RecordError: the file of singular values is missing or damaged.
    """
    from oblong.reporting.spectrum_tables import find_unit, render_unit

    unit = find_unit(scan, name)
    values = None
    try:
        values = scan.singular_values(name).tolist()
    except SelectionError as error:
        note(escape(str(error)))
    if as_json:
        content = {**unit.model_dump(mode="json"), "singular_values": values}
        print_json(json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1))
    else:
        stdout().print(render_unit(unit, values))


def read_kind(file: Path) -> str:
    """The kind that a record names: in its first line (JSON Lines) or in the whole document.

    Raises:
        RecordError: missing, unreadable, or no record.
    """
    from oblong.records.base import load_document
    from oblong.records.spectra import SPECTRA_SUFFIX

    if file.is_dir():
        raise RecordError(file, "is a directory, not a record")
    if file.name.endswith(SPECTRA_SUFFIX):
        scan_file = file.name.removesuffix(SPECTRA_SUFFIX)
        raise RecordError(file, f"holds the singular values of a Scan: `oblong show {scan_file} UNIT` shows them")
    data = read_first_line(file) or load_document(file)
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        raise RecordError(file, "is no record of oblong: it names no `kind`")
    return str(data["kind"])


def read_first_line(file: Path) -> Any:
    """The JSON of the first line; None when it is none, as in YAML and in JSON over several lines."""
    try:
        with file.open(encoding="utf-8") as lines:
            return json.loads(next(lines, ""))
    except (OSError, ValueError):
        return None


def parse_layers(text: str | None) -> tuple[int | None, int | None]:
    """`3` or `3-7`, inclusive.

    Raises:
        SelectionError: anything else.
    """
    if text is None:
        return None, None
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise SelectionError(f"--layer {text!r}: give one layer such as 3, or a range such as 3-7")
    return int(match[1]), int(match[2] or match[1])


def parse_status(text: str | None) -> Any:
    """A Status by its name.

    Raises:
        SelectionError: no such status; the message lists them.
    """
    from oblong.records import Status

    if text is None:
        return None
    try:
        return Status(text)
    except ValueError:
        raise SelectionError(f"--status {text!r} is unknown; choose one of: {', '.join(Status)}") from None


def list_sections(
    scan: Scan, wanted: UnitFilter, *, sort: str | None, top: int | None, bottom: int | None
) -> Mapping[str, tuple[Unit, ...]]:
    """The units to show, by heading: the highest, the lowest, or all that pass.

    Raises:
        SelectionError: no such field, or nothing passes the filters.
    """
    from oblong.reporting.scan_tables import list_extremes, list_units

    units = [unit for unit in scan if wanted.accepts(unit)]
    if not units:
        roles = ", ".join(dict.fromkeys(unit.role for unit in scan))
        raise SelectionError(f"no unit passes the filters; this Scan has the roles {roles}")
    field = sort or DEFAULT_SORT
    sections = {}
    if top is not None:
        sections[f"highest {field}"] = list_extremes(units, field, top, highest=True)
    if bottom is not None:
        sections[f"lowest {field}"] = list_extremes(units, field, bottom, highest=False)
    return sections or {f"{len(units)} units": list_units(units, sort=sort)}


def show_sections(sections: Mapping[str, tuple[Unit, ...]], *, sort: str, limit: int | None) -> None:
    """Print one table per section."""
    from oblong.reporting.scan_tables import render_units

    for title, units in sections.items():
        stdout().print(render_units(units, title=title, sort=sort, limit=limit))


def render_json(scan: Scan, sections: Mapping[str, tuple[Unit, ...]]) -> str:
    """The header and the units of all sections, each once."""
    units = dict.fromkeys(unit.name for members in sections.values() for unit in members)
    return json.dumps(
        {
            "kind": scan.header.kind,
            "header": scan.header.model_dump(mode="json"),
            "units": [scan[name].model_dump(mode="json") for name in units],
        },
        allow_nan=False,
        ensure_ascii=False,
        indent=1,
    )


def show_other(kind: str, file: Path, *, as_json: bool) -> None:
    """Print a record that is not a Scan.

    Raises:
        RecordError: a kind that this command does not know.
    """
    if kind not in VIEWS:
        raise RecordError(file, f"is a {kind!r} record; `oblong show` knows oblong.scan, {', '.join(VIEWS)}")
    VIEWS[kind](file, as_json)


def show_plan(file: Path, as_json: bool) -> None:
    """Print a Plan."""
    from oblong.records import Plan
    from oblong.reporting.plan_tables import render_roles, render_tensors

    plan = Plan.read(file)
    if as_json:
        print_json(plan.model_dump_json(indent=1))
        return
    stdout().print(render_tensors(plan, limit=NUM_SHOWN))
    stdout().print(render_roles(plan))


def show_comparison(file: Path, as_json: bool) -> None:
    """Print a Comparison as `oblong compare` does."""
    from oblong.cli.compare import print_comparison
    from oblong.records import Comparison

    comparison = Comparison.read(file)
    if as_json:
        print_json(comparison.model_dump_json(indent=1))
        return
    print_comparison(comparison)


def show_plain(record: str) -> Callable[[Path, bool], None]:
    """A view that lists a record's fields, the long ones by their length."""

    def view(file: Path, as_json: bool) -> None:
        from oblong import records

        content = getattr(records, record).read(file)
        if as_json:
            print_json(content.model_dump_json(indent=1))
            return
        for name, value in content.model_dump(mode="json").items():
            text = f"{len(value)} entries" if isinstance(value, list | dict) and len(str(value)) > 100 else str(value)
            stdout().print(f"[bold]{name}[/bold]  {escape(text)}", soft_wrap=True)

    return view


VIEWS: Final[Mapping[str, Callable[[Path, bool], None]]] = {
    "oblong.plan": show_plan,
    "oblong.comparison": show_comparison,
    "oblong.run": show_plain("Run"),
    "oblong.evaluation": show_plain("Evaluation"),
    "oblong.delta": show_plain("DeltaManifest"),
}
