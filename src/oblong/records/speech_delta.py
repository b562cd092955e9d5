"""The manifest of a speech delta: what was trained, on top of which encoder and language model, and what was not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from oblong.records.base import Part, Provenance, Record, check_kind

SPEECH_DELTA_KIND: Final = "oblong.speech_delta"
SPEECH_DELTA_SCHEMA_VERSION: Final = 1
SPEECH_DELTA_FILE: Final = "speech_delta.json"


class TensorIdentity(Part):
    """One tensor of a file."""

    shape: tuple[int, ...]
    dtype: str
    digest: str = Field(description="SHA-256 of its bytes")


class Tower(Part):
    """A pre-trained model that a delta stands on."""

    name: str = Field(description="as the user called it")
    tensors: Mapping[str, TensorIdentity] = Field(description="all that the speech LLM has of it, as in its files")


class LoraShape(Part):
    """Low-rank adapters, enough to build them again."""

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0)
    audio_gated: bool
    modules: tuple[str, ...] = Field(min_length=1, description="linear layers, by path inside the language model")


class SpeechDelta(Record):
    """What a speech delta holds, and the towers that it must be put on."""

    kind: Annotated[str, AfterValidator(check_kind(SPEECH_DELTA_KIND))] = SPEECH_DELTA_KIND
    schema_version: int = Field(default=SPEECH_DELTA_SCHEMA_VERSION, le=SPEECH_DELTA_SCHEMA_VERSION)
    encoder: Tower
    language_model: Tower
    arm: str = Field(pattern="^(plan|adaptor_only|lora|audio_gated_lora)$")
    description: str
    plan_name: str | None = None
    plan_digest: str | None = None
    lora: LoraShape | None = None
    stored: Mapping[str, Mapping[str, TensorIdentity]] = Field(description="safetensors file -> its tensors")
    files: Mapping[str, str] = Field(description="SHA-256 of the other files: configuration, processor, tokenizer")
    fraction_moved: Mapping[str, float] = Field(
        description="share of the elements of each of the language model's trained tensors that moved, 0 to 1"
    )
    provenance: Provenance
