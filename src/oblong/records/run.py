"""The Run: what was trained, on what, how it went, and where the result lies."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from oblong.records.base import Part, Provenance, Record, check_kind

RUN_KIND: Final = "oblong.run"
RUN_SCHEMA_VERSION: Final = 2
MANIFEST_KIND: Final = "oblong.delta"
MANIFEST_SCHEMA_VERSION: Final = 1

ModulesKind = Literal["columns", "experts"]
Routing = Literal["gate", "softmax", "gumbel", "base"]
BASE_TASK: Final = "base"


class RunStatus(StrEnum):
    """How a Run ended."""

    COMPLETED = "completed"
    DIVERGED = "diverged"
    STOPPED = "stopped"


class TrainingPoint(Part):
    """One logged step."""

    step: int
    loss: float | None = Field(
        description="mean training loss, nats per token, since the last point; null if not finite"
    )
    learning_rate: float
    gradient_norm: float | None


class DataSource(Part):
    """Text that went into a Run or an Evaluation, and its digest."""

    name: str
    source: str = Field(description="path or Hub id as given")
    digest: str = Field(description="SHA-256 over the documents' texts in order")
    num_documents: int
    num_bytes: int


class Run(Record):
    """One fine-tuning run."""

    kind: Annotated[str, AfterValidator(check_kind(RUN_KIND))] = RUN_KIND
    schema_version: int = Field(default=RUN_SCHEMA_VERSION, le=RUN_SCHEMA_VERSION)
    name: str
    model: str
    plan_name: str
    plan_digest: str
    adapter: str | None = Field(
        default=None, description="what trained in place of the Plan's tensors, in a line; null where they did"
    )
    recipe: Mapping[str, Any] = Field(description="the recipe as resolved")
    data: DataSource
    seed: int
    status: RunStatus
    stopped: str | None = Field(default=None, description="why it ended before its last step; null if it did not")
    num_trainable: int
    num_parameters: int
    num_steps: int
    num_tokens: int = Field(description="tokens trained on, with repetition")
    seconds: float = Field(description="training loop only")
    tokens_per_second: float
    peak_memory_bytes: int = Field(description="peak resident memory of the process; on a GPU, of its allocator")
    history: tuple[TrainingPoint, ...]
    delta: str = Field(description="directory of the delta checkpoint, relative to this file")
    provenance: Provenance


class TensorDigest(Part):
    """A tensor's identity before and after."""

    shape: tuple[int, ...]
    dtype: str
    base: str = Field(description="SHA-256 of the stored bytes in the base model")
    tuned: str | None = Field(default=None, description="SHA-256 after training; null for a frozen tensor")
    fraction_moved: float | None = Field(
        default=None, description="share of elements that differ from the base, 0 to 1"
    )


class ModulesManifest(Part):
    """Modules that a tuned model has beside those of its base, a part of them for each task that it learned."""

    kind: ModulesKind
    routing: Routing = Field(description="who decides which part answers where nobody tells the task; base: it does")
    tasks: tuple[str, ...] = Field(min_length=1, description="what was learned, in order; task 0 is the base")
    ranks: tuple[int, ...] = Field(description="of each task's part")
    targets: tuple[str, ...] = Field(
        default=(), description="last components of the names of layers that have parts; empty where every layer has"
    )
    tensors: Mapping[str, str] = Field(description="SHA-256 of the bytes of each tensor in modules.safetensors")


class DeltaManifest(Record):
    """What a delta checkpoint changes and, tensor by tensor, what it does not."""

    kind: Annotated[str, AfterValidator(check_kind(MANIFEST_KIND))] = MANIFEST_KIND
    schema_version: int = Field(default=MANIFEST_SCHEMA_VERSION, le=MANIFEST_SCHEMA_VERSION)
    model: str
    plan_digest: str
    changed: Mapping[str, TensorDigest]
    frozen: Mapping[str, TensorDigest]
    modules: ModulesManifest | None = Field(default=None, description="what was added to the base; null if nothing was")
    provenance: Provenance
