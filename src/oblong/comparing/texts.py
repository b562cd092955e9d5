"""The texts of a comparison's recipe: held-out ones, tasks of a sequence, and what is read again at the end."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from oblong.records import Part
from oblong.tuning.recipe import DataRecipe


class EvaluationCorpus(Part):
    """One held-out text."""

    data: str = Field(description="file, folder, Hub dataset or bundled:NAME")
    text_field: str = "text"
    new_domain: bool = Field(default=False, description="the domain that is being learned; the others are retention")
    documents: int | None = Field(default=None, gt=0, description="the first so many documents")
    characters: int | None = Field(default=None, gt=0, description="of each document, the first so many characters")


def _read_source(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


def _read_held_out(value: Any) -> Any:
    return {"data": value} if isinstance(value, str) else value


TrainingText = Annotated[DataRecipe, BeforeValidator(_read_source)]
"""Text to train on, as in a tuning recipe; a bare string is its source."""

HeldOutText = Annotated[EvaluationCorpus, BeforeValidator(_read_held_out)]
"""Text to evaluate on; a bare string is its source."""


class TaskRule(Part):
    """One task of a sequence: what is learned, and what shows that it was."""

    name: str = Field(min_length=1, description="for tables; also the name of its held-out text")
    data: TrainingText = Field(description="training text; a bare string is its source")
    evaluate: HeldOutText = Field(description="held-out text of the same kind; a bare string is its source")
    steps: int | None = Field(default=None, gt=0, description="optimizer steps; default: `train`'s")


class RelearnRule(Part):
    """A few steps on old text after each run: does what was forgotten come back?"""

    data: TrainingText = Field(description="text of the kind of a retention text, none of whose documents are in it")
    steps: int = Field(gt=0, description="optimizer steps, so few that nothing new is learned by them")
    texts: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="names of the held-out texts to measure; default: all retention texts"
    )
    learning_rate: float | None = Field(default=None, gt=0, description="constant; default: each arm's own peak")
