"""The tuning recipe: everything that decides the outcome of a Run, in one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from oblong.errors import RecipeError
from oblong.methods import METHODS, SELF_GENERATED
from oblong.methods.recipe_fields import (
    AnchorField,
    MethodField,
    explain_missing_anchor,
    explain_unkept_modules,
    takes_anchor,
)
from oblong.records.base import Part
from oblong.records.recipe import describe_recipe_errors, load_recipe_data
from oblong.tuning.adapters.recipe import AdapterRecipe, explain_conflict, explain_missing_gate

COMMAND_LINE: Final = Path("command line")


class DataRecipe(Part):
    """Which text to train on."""

    source: str = Field(
        min_length=1, description="text, JSONL, CSV or Parquet file, folder, Hub dataset, or bundled:NAME"
    )
    text_field: str = Field(default="text", description="field or column that holds the text")
    split: str = Field(default="train", description="split of a Hub dataset")
    skip: int = Field(default=0, ge=0, description="leave the first so many documents out, such as held-out ones")
    limit: int | None = Field(default=None, gt=0, description="keep the first so many documents of the others")


class TuneRecipe(Part):
    """One fine-tuning run. Paths are relative to the current directory."""

    model: str = Field(min_length=1, description="directory, .safetensors or .gguf file, Hub id, or demo")
    plan: str | None = Field(
        default=None, min_length=1, description="the Plan whose tensors train, from `oblong plan`; this or adapter"
    )
    adapter: AdapterRecipe | None = Field(
        default=None,
        description="what trains in place of a Plan's tensors: lora, full, lisa, osf (with a plan, on its tensors "
        "only), or beside the base: columns, experts",
    )
    data: DataRecipe = Field(description="training text; a bare string is its source")
    output: str = Field(min_length=1, description="directory of the Run; must not exist yet")
    steps: int | None = Field(default=None, gt=0, description="optimizer steps; give this or epochs")
    epochs: float | None = Field(default=None, gt=0, description="passes over the text; give this or steps")
    sequence_length: int = Field(default=512, ge=2, description="tokens per training block")
    batch_size: int = Field(default=4, gt=0, description="blocks per forward pass")
    gradient_accumulation: int = Field(default=1, gt=0, description="forward passes per optimizer step")
    learning_rate: float = Field(default=1e-4, gt=0, description="peak learning rate of AdamW")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="how the learning rate falls to zero after the warm-up"
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps over which the learning rate rises from zero")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's; decay pulls weights to zero, not to the base")
    max_gradient_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this global norm")
    optimizer: Literal["adamw"] = Field(default="adamw", description="AdamW, betas 0.9 and 0.999, epsilon 1e-8")
    gradient_checkpointing: bool = Field(default=False, description="recompute activations: less memory, more time")
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="of frozen weights and arithmetic; trained tensors are float32 either way"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="order of the text, and dropout if the model has any")
    log_every: int = Field(default=10, gt=0, description="steps per point of the Run's loss curve")
    save_every: int = Field(default=50, ge=0, description="steps between resume checkpoints; 0 for none")
    threads: int | None = Field(default=None, gt=0, description="CPU threads; default: torch's, one per core")
    allow_other_weights: bool = Field(
        default=False, description="accept a Plan made from other weights of the same names and shapes"
    )
    method: MethodField = Field(
        default=None, description="what to do against forgetting: a name, or name, strength and other options"
    )
    anchor: AnchorField = Field(
        default=None, description="old data, for methods that need it: self_generated, bundled:NAME, a file, ..."
    )

    after: str | None = Field(
        default=None,
        min_length=1,
        description="a finished Run with the same Plan: go on from its weights and from what the same method kept",
    )
    keep_for_next: bool = Field(
        default=False, description="keep what the method must know when another run goes on `after` this one"
    )

    @field_validator("data", mode="before")
    @classmethod
    def _accept_bare_source(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.steps is not None and self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) is more than steps ({self.steps})")
        return self

    @model_validator(mode="after")
    def _check_what_trains(self) -> Self:
        if self.plan is None and self.adapter is None:
            raise ValueError(f"give a plan, from `oblong plan`, or an adapter: {', '.join(AdapterRecipe.model_fields)}")
        if self.plan is not None and self.adapter is not None and self.adapter.full is not None:
            raise ValueError("adapter: full trains every tensor, a plan some: give one of them")
        if (conflict := explain_conflict(self.adapter, self.method)) is not None:
            raise ValueError(conflict)
        return self

    @model_validator(mode="after")
    def _check_method_fits(self) -> Self:
        if (missing := explain_missing_anchor(self.method, self.anchor)) is not None:
            raise ValueError(missing)
        if (unkept := explain_unkept_modules(self.method)) is not None:
            raise ValueError(unkept)
        gateless = explain_missing_gate(
            self.adapter, has_anchor=self.anchor is not None, goes_on=self.after is not None
        )
        if gateless is not None:
            raise ValueError(gateless)
        return self

    @property
    def uses_anchor(self) -> bool:
        """Whether there is old data and a method that takes it, or a gate that is fitted on it."""
        return takes_anchor(self.method, self.anchor) or self.fits_gate

    @property
    def fits_gate(self) -> bool:
        """Whether old data shows an adapter's gate what the base is for; later runs of a sequence take it over."""
        return self.after is None and self._has_gated_anchor

    @property
    def _has_gated_anchor(self) -> bool:
        return self.anchor is not None and self.adapter is not None and self.adapter.can_use_gate

    @property
    def is_data_free(self) -> bool:
        """Whether nothing goes in beside the new text but what the base itself generates.

        The text of a task that was learned before is old text.
        """
        if self.anchor is None or not (self.uses_anchor or self._has_gated_anchor):
            return True
        sees_tasks_before = (
            self.after is not None and self.method is not None and not METHODS[self.method.name].old_data_once
        )
        return set(self.anchor.sources) == {SELF_GENERATED} and not sees_tasks_before

    @property
    def blocks_per_step(self) -> int:
        """Training blocks behind one optimizer step."""
        return self.batch_size * self.gradient_accumulation

    def to_yaml(self) -> str:
        """The recipe as resolved, every field written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def read_recipe(path: Path, *, overrides: Mapping[str, Any] | None = None) -> TuneRecipe:
    """Read a recipe from a YAML file.

    Args:
        path: the file.
        overrides: fields that win over the file's, such as the flags of the command line; None values are ignored.

    Raises:
        RecipeError: unreadable, or with mistakes; all of them are listed, each with its place.
    """
    return build_recipe(load_recipe_data(path), overrides=overrides, path=path)


def build_recipe(
    data: Mapping[str, Any], *, overrides: Mapping[str, Any] | None = None, path: Path = COMMAND_LINE
) -> TuneRecipe:
    """Turn parsed data into a recipe.

    Raises:
        RecipeError: with mistakes; all of them are listed, each with its place in the file.
    """
    merged = merge_overrides(data, overrides or {})
    try:
        return TuneRecipe.model_validate(merged)
    except ValidationError as error:
        hidden = _find_conflicts_hidden_by(error, merged)
        raise RecipeError(path, [*describe_recipe_errors(error), *hidden]) from error


def merge_overrides(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's data with the overrides that are not None; `data` is merged field by field.

    `steps` and `epochs` exclude each other, so overriding one drops the other.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    merged = {**data, **given}
    if isinstance(given.get("data"), dict):
        base = data.get("data", {})
        merged["data"] = {**({"source": base} if isinstance(base, str) else base), **given["data"]}
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in given and other not in given:
            merged.pop(other, None)
    return merged


def _find_conflicts_hidden_by(error: ValidationError, data: Mapping[str, Any]) -> list[str]:
    """Pydantic checks relations between fields only once every field is right; report them together."""
    if any(not item["loc"] for item in error.errors()):
        return []
    if (data.get("steps") is None) == (data.get("epochs") is None):
        return ["(whole file): give either steps or epochs"]
    return []
