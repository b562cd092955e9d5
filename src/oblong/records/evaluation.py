"""The Evaluation: how well a model predicts held-out text and answers questions, and how far it moved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from oblong.records.base import Part, Provenance, Record, check_kind
from oblong.records.run import DataSource
from oblong.records.suite import TaskScore

EVALUATION_KIND: Final = "oblong.evaluation"
EVALUATION_SCHEMA_VERSION: Final = 1


class DocumentScore(Part):
    """One held-out document."""

    nll: float = Field(ge=0, description="total negative log-likelihood, nats")
    num_tokens: int = Field(gt=0, description="tokens that were predicted")
    num_bytes: int = Field(gt=0, description="UTF-8 bytes of the predicted text")
    kl: float | None = Field(default=None, description="total KL(base || model) over those positions, nats")


class CorpusScore(Part):
    """One held-out corpus."""

    data: DataSource
    new_domain: bool = Field(description="the domain that is being learned, as against general text")
    documents: tuple[DocumentScore, ...]
    answered: Mapping[str, float] | None = Field(
        default=None,
        description="of a model with added modules: the share of windows that the base and each task's part answered",
    )

    @property
    def num_tokens(self) -> int:
        """Tokens that were predicted."""
        return sum(document.num_tokens for document in self.documents)

    @property
    def loss(self) -> float:
        """Total NLL / total tokens, nats per token."""
        return sum(document.nll for document in self.documents) / self.num_tokens

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Total NLL / (ln 2 * total bytes): independent of the tokenizer."""
        num_bytes = sum(document.num_bytes for document in self.documents)
        return sum(document.nll for document in self.documents) / (math.log(2) * num_bytes)

    @property
    def kl(self) -> float | None:
        """Forward KL(base || model), nats per token; null when no base was given."""
        values = [document.kl for document in self.documents]
        if any(value is None for value in values):
            return None
        return sum(value for value in values if value is not None) / self.num_tokens


class Drift(Part):
    """How far the weights moved from the base."""

    num_changed_tensors: int
    num_parameters_in_changed: int
    fraction_moved: float = Field(description="share of the changed tensors' elements that differ, 0 to 1")
    relative_change: float | None = Field(
        description="||delta||_F / ||base||_F over the changed tensors; null if that is not finite"
    )


class Evaluation(Record):
    """One model on several corpora, and on questions with right answers."""

    kind: Annotated[str, AfterValidator(check_kind(EVALUATION_KIND))] = EVALUATION_KIND
    schema_version: int = Field(default=EVALUATION_SCHEMA_VERSION, le=EVALUATION_SCHEMA_VERSION)
    name: str = Field(description="`base`, or the name of the arm")
    model: str
    delta: str | None = Field(default=None, description="delta checkpoint that was applied")
    window: int = Field(description="context length, tokens")
    stride: int = Field(description="tokens newly predicted per window")
    dtype: str
    corpora: Mapping[str, CorpusScore]
    suite: Mapping[str, TaskScore] = Field(default={}, description="questions with right answers, by task")
    drift: Drift | None = None
    seconds: float
    provenance: Provenance
