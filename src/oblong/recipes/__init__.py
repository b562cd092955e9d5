"""Complete, commented run configurations that ship with oblong."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from oblong.errors import RecipeError

SPEECH_PREFIX: Final = "speech-"
TUNE: Final = "tune"


def recipe_path(name: str) -> Path:
    """The file of a shipped recipe, such as `demo`."""
    return Path(__file__).parent / f"{name}.yaml"


def find_recipe(name: str, *, speech: bool) -> Path:
    """A recipe file, or a shipped recipe by its name.

    Args:
        name: a path, or a name such as `forgetting` or `speech-prompts`.
        speech: which of the shipped ones a message lists: speech trainings, or comparisons.

    Raises:
        RecipeError: neither.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    shipped = recipe_path(name)
    if "/" not in name and shipped.exists():
        return shipped
    names = sorted(file.stem for file in shipped.parent.glob("*.yaml"))
    known = ", ".join(stem for stem in names if stem.startswith(SPEECH_PREFIX) == speech and stem != TUNE)
    raise RecipeError(path, [f"(whole file): no such file, and no shipped recipe; there are {known}"])
