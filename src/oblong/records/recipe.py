"""Reading recipes: YAML in, a checked configuration out, or every mistake at once with its place in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from oblong.errors import RecipeError
from oblong.records.base import Part, describe_validation_error

RecipeT = TypeVar("RecipeT", bound=Part)


def load_recipe_data(path: Path) -> dict[str, Any]:
    """Parse a recipe file into a mapping.

    Raises:
        RecipeError: missing, unreadable, not YAML, or not a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(path, ["(whole file): no such file"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(path, [f"(whole file): cannot be read: {error}"]) from error
    except yaml.YAMLError as error:
        raise RecipeError(path, [f"(whole file): is not valid YAML: {error}"]) from error
    if not isinstance(data, dict):
        raise RecipeError(path, ["(whole file): must be a mapping such as `model: demo`"])
    return data


def check_recipe(cls: type[RecipeT], data: Any, path: Path) -> RecipeT:
    """Turn parsed data into a recipe.

    Raises:
        RecipeError: with mistakes; all of them are listed, each with its place in the file.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise RecipeError(path, describe_recipe_errors(error)) from error


def describe_recipe_errors(error: ValidationError) -> list[str]:
    """One line per mistake, in a user's words."""
    return [
        problem.replace("Value error, ", "").replace("Extra inputs are not permitted", "no such option")
        for problem in describe_validation_error(error)
    ]
