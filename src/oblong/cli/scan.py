"""`oblong scan`: measure every tensor of a checkpoint."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from oblong.cli.terminal import format_count, format_seconds, note, print_json, stderr, stdout

if TYPE_CHECKING:
    from oblong.records import Scan
    from oblong.scanning import ScanProgress

EXIT_INTERRUPTED: Final = 130
SECONDS_BETWEEN_LINES: Final = 10.0

Spectrum = Literal["extremes", "full"]
Precision = Literal["auto", "float64"]


def scan(
    model: Annotated[str, typer.Argument(help="A model directory, a .safetensors or .gguf file, a Hub id, or `demo`.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; default: ./NAME-OF-MODEL.scan.jsonl.")
    ] = None,
    include: Annotated[
        str | None, typer.Option(help="Measure only tensors whose name matches this regular expression somewhere.")
    ] = None,
    exclude: Annotated[
        str | None, typer.Option(help="Do not measure tensors whose name matches this regular expression.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where to compute: cpu, or cuda; mps has no float64 and falls back to cpu.")
    ] = "cpu",
    spectrum: Annotated[
        Spectrum,
        typer.Option(
            help="extremes is fast; full also gives effective rank, mutual information and s_1 / s_95%, and keeps "
            "every singular value in OUTPUT.spectra."
        ),
    ] = "extremes",
    precision: Annotated[
        Precision,
        typer.Option(
            help="auto computes large matrices in float32 where float64 can check the result; float64 never does. "
            "The error bound is the same."
        ),
    ] = "auto",
    heads: Annotated[bool, typer.Option("--heads", help="Also measure every head of q, k, v and o.")] = False,
    threads: Annotated[int | None, typer.Option(help="Threads on the CPU; default: all cores.")] = None,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Fetch a Hub model shard by shard, two on the disk at most, and delete them."),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Spread the work over a Ray cluster: its address, `auto`, or `local`. Every node must see the files "
            "of MODEL under the same path.",
            metavar="ADDRESS",
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of resuming.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a finished output.")] = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Measure every matrix again; see `oblong cache`.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Measure how round or oblong every weight tensor of a model is.

    Reads the checkpoint tensor by tensor; the model is never built and none of its code runs. Interrupt it as you
    like: the same command goes on where it stopped.

    Example: oblong scan demo -o demo.scan.jsonl
    """
    from oblong.records.spectra import get_spectra_path
    from oblong.scanning import scan as scan_model

    target = output or Path(f"{make_slug(model)}.scan.jsonl")
    start = time.monotonic()
    try:
        # Ray prints to stdout, which belongs to the result.
        with ScanBar() as bar, redirect_stdout(sys.stderr) if ray else nullcontext():
            result = scan_model(
                model,
                output=target,
                include=include,
                exclude=exclude,
                device=device,
                spectrum=spectrum,
                precision=precision,
                fresh=fresh,
                force=force,
                on_progress=bar.update,
                num_threads=threads,
                heads=heads,
                stream=stream,
                cache=not no_cache,
                ray=ray,
            )
    except KeyboardInterrupt:
        stderr().print("[yellow]interrupted;[/yellow] what was finished is kept: run the same command to go on")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    seconds = time.monotonic() - start
    if as_json:
        print_json(render_json(result, target, seconds))
    else:
        show_summary(result)
        stdout().print(f"wrote {target} ({len(result)} units, {format_seconds(seconds)})", markup=False, soft_wrap=True)
        if result.has_singular_values:
            stdout().print(f"singular values in {get_spectra_path(target)}", markup=False, soft_wrap=True)


def make_slug(model: str) -> str:
    """A file name from what the user called the model: the last part of a path or Hub id."""
    path = Path(model).expanduser()
    name = path.resolve().name if path.exists() else model.rstrip("/").rpartition("/")[2]
    stem = re.sub(r"\.(safetensors|gguf|bin|pt|pth)$", "", name)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "model"


def show_summary(scan: Scan) -> None:
    """Print the tables by role and of what was not measured."""
    from oblong.reporting.scan_tables import render_roles, render_skipped

    info = scan.header.checkpoint
    console = stdout()
    console.print(
        f"{scan.header.model}: {info.architecture or info.format}, {info.num_tensors} tensors, "
        f"{format_count(info.num_parameters)} parameters; {len(scan.measured)} units measured, "
        f"{len(scan.eligible)} eligible for a plan",
        markup=False,
        soft_wrap=True,
    )
    if scan.measured:
        console.print(render_roles(scan))
    skipped = render_skipped(scan)
    if skipped is not None:
        console.print(skipped)


def render_json(scan: Scan, output: Path, seconds: float) -> str:
    """The summary: where the Scan lies, its digest, the rows of both tables."""
    from dataclasses import asdict

    from oblong.records.spectra import get_spectra_path
    from oblong.reporting.scan_tables import list_role_rows, list_skipped_rows

    return json.dumps(
        {
            "output": str(output),
            "singular_values": str(get_spectra_path(output)) if scan.has_singular_values else None,
            "digest": scan.digest(),
            "model": scan.header.model,
            "checkpoint": scan.header.checkpoint.model_dump(mode="json"),
            "num_units": len(scan),
            "num_measured": len(scan.measured),
            "num_eligible": len(scan.eligible),
            "roles": [asdict(row) for row in list_role_rows(scan)],
            "not_measured": [asdict(row) for row in list_skipped_rows(scan)],
            "seconds": round(seconds, 3),
        },
        allow_nan=False,
        ensure_ascii=False,
        indent=1,
    )


class ScanBar:
    """A bar whose time left follows the work, not the count; off a terminal, a line every ten seconds."""

    def __init__(self) -> None:
        console = stderr()
        columns: tuple[Any, ...] = (
            SpinnerColumn(),
            TextColumn("[bold]scanning"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[count]} units"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=None, count="0", detail="")
        self._is_terminal = console.is_terminal
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, state: ScanProgress) -> None:
        """Show how far the scan has come."""
        if state.message is not None:
            self._progress.console.print(f"[dim]{escape(state.message)}[/dim]", soft_wrap=True)
        self._progress.update(
            self._task,
            total=state.total_work,
            completed=state.done_work,
            count=f"{state.done}/{state.total}",
            detail=escape(state.detail),
        )
        if not self._is_terminal and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            note(f"scanned {state.done} of {state.total} units ({state.done_work / state.total_work:.0%} of the work)")
