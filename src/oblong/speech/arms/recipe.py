"""What of the language model trains beside the adaptor, as a recipe says it."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from oblong.records.base import Part

ArmKind = Literal["plan", "adaptor_only", "lora", "audio_gated_lora"]


class LoraRecipe(Part):
    """Low-rank adapters in the language model: W x + (alpha / rank) B A x.

    Source: Hu et al. 2021. B starts at zero, so that training starts from the language model as it is.
    """

    rank: int = Field(default=16, gt=0, description="rows of A, columns of B")
    alpha: float | None = Field(default=None, gt=0, description="scale, divided by the rank; default: twice the rank")
    target_modules: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="ends of module paths, such as q_proj; default: every linear layer of attention and MLP",
    )
    audio_gated: bool = Field(default=False, description="adapters speak only where there is audio")

    @field_validator("target_modules", mode="before")
    @classmethod
    def _accept_one_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def scale(self) -> float:
        """Alpha as resolved."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


class ArmRecipe(Part):
    """One arm of a study: exactly one of `plan`, `adaptor_only` and `lora`."""

    plan: str | None = Field(default=None, min_length=1, description="the Plan whose tensors train, from `oblong plan`")
    adaptor_only: bool = Field(default=False, description="nothing of the language model trains")
    lora: LoraRecipe | None = Field(default=None, description="low-rank adapters train")
    allow_other_weights: bool = Field(
        default=False, description="accept a Plan made from other weights of the same names and shapes"
    )

    @model_validator(mode="before")
    @classmethod
    def _explain_other_adapters(cls, value: Any) -> Any:
        beside = [name for name in ("columns", "experts") if isinstance(value, dict) and name in value]
        if beside:
            raise ValueError(
                f"{beside[0]} stay beside the language model, and a speech delta holds tensors of the adaptor and the "
                "language model alone: take lora: {audio_gated: true}, which leaves text as it was bit for bit"
            )
        return value

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        if (self.plan is not None) + self.adaptor_only + (self.lora is not None) != 1:
            raise ValueError("give exactly one of plan: PATH, adaptor_only: true, lora: {rank: ...}")
        if self.allow_other_weights and self.plan is None:
            raise ValueError("allow_other_weights goes with a plan")
        return self

    @property
    def kind(self) -> ArmKind:
        """Which of them it is."""
        if self.lora is not None:
            return "audio_gated_lora" if self.lora.audio_gated else "lora"
        return "adaptor_only" if self.adaptor_only else "plan"
