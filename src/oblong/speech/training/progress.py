"""What a training reports while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from oblong.records import SpeechPoint, SpeechStage


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechProgress:
    """One report.

    Attributes:
        activity: what is being done: encoding, evaluating, training.
        done, total: of it.
        stage: None before the first.
        loss: of the last step, nats per token.
        point: the newest evaluation.
    """

    activity: str
    done: int = 0
    total: int = 0
    stage: SpeechStage | None = None
    loss: float | None = None
    point: SpeechPoint | None = None


OnSpeechProgress = Callable[[SpeechProgress], None]


def ignore_progress(progress: SpeechProgress) -> None:
    """Report to nobody."""
    del progress
