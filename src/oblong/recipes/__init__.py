"""Complete, commented run configurations that ship with oblong."""

from __future__ import annotations

from pathlib import Path


def recipe_path(name: str) -> Path:
    """The file of a shipped recipe, such as `demo`."""
    return Path(__file__).parent / f"{name}.yaml"
