"""`oblong report`: one self-contained HTML page from records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oblong.cli.terminal import note, stdout


def report(
    scan: Annotated[Path | None, typer.Option(help="A Scan, from `oblong scan`.")] = None,
    comparison: Annotated[Path | None, typer.Option(help="A Comparison, from `oblong compare`.")] = None,
    plan: Annotated[list[Path] | None, typer.Option(help="A Plan, from `oblong plan`; may be repeated.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path("report.html"),
    png: Annotated[Path | None, typer.Option(help="Also write every figure as PNG and SVG into this folder.")] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")] = False,
) -> None:
    """Turn records into one HTML page that needs no network: tables, figures, and what they do and do not show.

    Give what you have; sections for which there is no record are left out.

    Example: oblong report --scan demo.scan.jsonl --comparison comparison.json -o report.html --png figures
    """
    from oblong.records import Comparison, Plan, Scan
    from oblong.reporting.html import write_report

    written = write_report(
        output,
        scan=Scan.read(scan) if scan else None,
        comparison=Comparison.read(comparison) if comparison else None,
        plans=[Plan.read(path) for path in plan or []],
        title=title,
        png_directory=png,
        force=force,
    )
    for path in written[1:]:
        note(f"wrote {path}")
    stdout().print(f"wrote {written[0]}", soft_wrap=True, markup=False)
