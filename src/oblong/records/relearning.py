"""What a few steps on old text bring back: the scores of each run, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from oblong.records.base import Part
from oblong.records.evaluation import CorpusScore
from oblong.records.interval import Interval
from oblong.records.run import DataSource


class RelearnedScores(Part):
    """One held-out text after the same steps on old text, of both models."""

    base: CorpusScore
    tuned: CorpusScore


class RelearningProbe(Part):
    """A run's probe: the tuned model and the base, both trained for a few steps on old text."""

    steps: int
    learning_rate: float = Field(gt=0, description="constant")
    data: DataSource = Field(description="the old text")
    texts: Mapping[str, RelearnedScores]


class RelearnedText(Part):
    """An arm on one held-out text, pooled over its seeds; nats per token, positive = worse than the base."""

    arm: str
    corpus: str
    steps: int
    forgotten: Interval = Field(description="loss(tuned) - loss(base) before relearning")
    remaining: Interval = Field(description="the same after both were trained for `steps` on old text")
    returned: float | None = Field(
        description="1 - remaining / forgotten: share that came back; null where no forgetting can be told from zero"
    )
    against_control: Interval | None = Field(
        default=None, description="remaining of this arm - remaining of the control; null for the control"
    )
    adjusted_p_value: float | None = Field(default=None, ge=0, le=1, description="of that, by Holm over arms")
