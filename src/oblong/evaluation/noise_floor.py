"""How much an evaluation differs from itself: differences below that are not differences between models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev

from scipy.special import stdtrit

from oblong.errors import DataError
from oblong.records import DocumentScore


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseFloor:
    """The base evaluated several times with nothing changed but what is left to chance.

    Attributes:
        num_evaluations: of the base.
        deviation: standard deviation of its loss between them, nats per token.
        floor: two evaluations of one model differ by less in a share `confidence` of cases, nats per token.
        confidence: that share, between 0 and 1.
    """

    num_evaluations: int
    deviation: float
    floor: float
    confidence: float

    def hides(self, difference: float) -> bool:
        """Whether a difference of losses could come from evaluating alone."""
        return abs(difference) <= self.floor


def measure_noise_floor(evaluations: Sequence[Sequence[DocumentScore]], *, confidence: float = 0.95) -> NoiseFloor:
    """Compare the base with itself.

    floor = t sqrt(2) s,   s the standard deviation of the K losses, t Student's with K - 1 degrees of freedom

    A deterministic evaluation (one machine, one batch size) has a floor of 0: vary what varies between the arms'
    evaluations, such as batch size, device or threads.

    Args:
        evaluations: `K x D` scores of the unchanged base on the same documents; K is at least 2, better 5.
        confidence: of the floor, between 0 and 1.

    Raises:
        DataError: fewer than two evaluations, or of different documents.
    """
    if len(evaluations) < 2:
        raise DataError("a noise floor needs at least two evaluations of the same model")
    lengths = {tuple(document.num_tokens for document in documents) for documents in evaluations}
    if len(lengths) > 1 or lengths == {()}:
        raise DataError("the evaluations for a noise floor must cover the same documents, cut in the same way")
    losses = [
        math.fsum(document.nll for document in documents) / sum(document.num_tokens for document in documents)
        for documents in evaluations
    ]
    deviation = stdev(losses)
    quantile = float(stdtrit(len(losses) - 1, (1 + confidence) / 2))
    return NoiseFloor(
        num_evaluations=len(losses),
        deviation=deviation,
        floor=quantile * math.sqrt(2) * deviation,
        confidence=confidence,
    )
