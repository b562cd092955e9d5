"""Draw the figures of docs/explanation/trust.md.

    python -m benchmarks.scan_noise --demo --json noise.json
    python -m benchmarks.draw_trust --noise noise.json [--model demo] [--output docs/images]

`kappa_against_null.png`: every layer matrix of the model, its kappa against the median of Gaussian matrices of its
shape. `interval_by_format.png`: generated matrices, the stated interval relative to the kappa before rounding.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import altair as alt
import vl_convert

import oblong
from oblong.reporting.theme import ARM_COLOURS, PAPER, ROLE_COLOURS, SHAPES, present

SHOWN_FORMATS: Final = ("bf16", "fp8, block scales", "int8, row scales", "nf4")
SHOWN_KINDS: Final = ("Gaussian", "heavy-tailed", "planted", "outlier channels")
SHOWN_MATRICES: Final = 120
"""The first ones of each format: more would hide each other."""
CEILING: Final = 100.0
FLOOR: Final = 0.01
SCALE: Final = 1.2
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
KAPPAS: Final = alt.Axis(values=[10**k for k in range(8)], format=",")
RATIOS: Final = alt.Axis(values=[0.01, 0.1, 1, 10, 100], format="~g")


def collect_units(model: str) -> list[dict[str, Any]]:
    """kappa, null kappa and shape of the eligible units."""
    scan = oblong.scan(model)
    return [
        {
            "shape": " x ".join(str(side) for side in sorted(unit.matrix_shape or ())),
            "kappa": unit.measures.kappa,
            "null": unit.measures.null_kappa,
        }
        for unit in scan.units
        if unit.measures is not None and unit.eligible
    ]


def draw_null(units: Sequence[dict[str, Any]]) -> Any:
    """Each kappa over its null kappa, logarithmic, with the line where they are equal."""
    shapes = sorted({unit["shape"] for unit in units}, key=lambda shape: [int(side) for side in shape.split(" x ")])
    low, high = (extreme(unit["null"] for unit in units) for extreme in (min, max))
    across = alt.Scale(type="log", domain=[low / 2, high * 2], nice=False)
    up = alt.Scale(type="log", nice=False)
    line = alt.Chart(alt.Data(values=[{"x": low / 2}, {"x": high * 2}])).mark_line(style="reference")
    points = alt.Chart(alt.Data(values=list(units))).mark_point(filled=True, size=38, opacity=0.55)
    colours = alt.Scale(domain=shapes, range=list(ROLE_COLOURS[: len(shapes)]))
    symbols = alt.Scale(domain=shapes, range=list(SHAPES[: len(shapes)]))
    chart = alt.layer(
        line.encode(x=alt.X("x:Q", scale=across), y=alt.Y("x:Q", scale=up)),
        points.encode(
            x=alt.X("null:Q", scale=across, axis=KAPPAS, title="median kappa of Gaussian matrices of the same shape"),
            y=alt.Y("kappa:Q", scale=up, axis=KAPPAS, title="kappa of the weights"),
            color=alt.Color("shape:N", scale=colours, title="shape"),
            shape=alt.Shape("shape:N", scale=symbols, title="shape"),
        ),
    )
    return chart.properties(width=420, height=300, title="Shape decides most of kappa")


def collect_intervals(report: Any) -> list[dict[str, Any]]:
    """Interval ends relative to the truth, cut at the edges of the figure."""
    rows = [row for row in report["rows"] if row["kind"] in SHOWN_KINDS and row["storage"] in SHOWN_FORMATS]
    return [
        {
            "storage": row["storage"],
            "kappa": row["kappa"],
            "low": max(row["kappa_low"] / row["kappa"], FLOOR),
            "high": min((row["kappa_high"] or float("inf")) / row["kappa"], CEILING),
            "stored": min(max(row["stored_kappa"] / row["kappa"], FLOOR), CEILING),
            "state": "resolved" if row["resolved"] else "unresolved: no upper end",
        }
        for row in rows
    ]


def draw_intervals(rows: Sequence[dict[str, Any]]) -> Any:
    """One panel per format."""
    by_storage = {storage: [row for row in rows if row["storage"] == storage] for storage in SHOWN_FORMATS}
    panels = [draw_format(storage, members[:SHOWN_MATRICES]) for storage, members in by_storage.items()]
    grid = alt.vconcat(alt.hconcat(*panels[:2]), alt.hconcat(*panels[2:]))
    return grid.properties(title="The stated interval of kappa, relative to kappa before rounding")


def draw_format(storage: str, rows: Sequence[dict[str, Any]]) -> Any:
    """A vertical rule per matrix from kappa_low to kappa_high, a dot at the kappa of the stored matrix."""
    colours = alt.Scale(domain=["resolved", "unresolved: no upper end"], range=[ARM_COLOURS[0], ARM_COLOURS[1]])
    x = alt.X(
        "kappa:Q",
        scale=alt.Scale(type="log", domain=[1, 1.2e5], nice=False),
        axis=KAPPAS,
        title="kappa before rounding",
    )
    y_scale = alt.Scale(type="log", domain=[FLOOR, CEILING])
    base = alt.Chart(alt.Data(values=list(rows)))
    colour = alt.Color("state:N", scale=colours, title=None, legend=alt.Legend(orient="bottom"))
    rules = base.mark_rule(opacity=0.35).encode(
        x=x, y=alt.Y("low:Q", scale=y_scale, axis=RATIOS, title="interval / truth"), y2="high:Q", color=colour
    )
    dots = base.mark_point(filled=True, size=12, opacity=0.8).encode(
        x=x, y=alt.Y("stored:Q", scale=y_scale), color=colour
    )
    line = alt.Chart(alt.Data(values=[{"one": 1.0}])).mark_rule(style="reference").encode(y="one:Q")
    return alt.layer(rules, dots, line).properties(width=300, height=170, title=storage)


def write_png(chart: Any, path: Path) -> None:
    """In the house style, on white."""
    path.write_bytes(compress_png(vl_convert.vegalite_to_png(present(chart, PAPER), scale=SCALE)))


def compress_png(png: bytes) -> bytes:
    """The same image in a tenth of the bytes: vl-convert hardly compresses."""
    position, kept, pixels = len(PNG_SIGNATURE), b"", b""
    while position < len(png):
        size = int.from_bytes(png[position : position + 4], "big")
        kind, data = png[position + 4 : position + 8], png[position + 8 : position + 8 + size]
        if kind == b"IDAT":
            pixels += data
        elif kind == b"IHDR":
            kept += make_chunk(kind, data)
        position += size + 12
    packed = zlib.compress(zlib.decompress(pixels), level=9)
    return PNG_SIGNATURE + kept + make_chunk(b"IDAT", packed) + make_chunk(b"IEND", b"")


def make_chunk(kind: bytes, data: bytes) -> bytes:
    """Length, kind, data and checksum."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", type=Path, required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    write_png(draw_null(collect_units(arguments.model)), arguments.output / "kappa_against_null.png")
    report = json.loads(arguments.noise.read_text(encoding="utf-8"))
    write_png(draw_intervals(collect_intervals(report)), arguments.output / "interval_by_format.png")


if __name__ == "__main__":
    main()
