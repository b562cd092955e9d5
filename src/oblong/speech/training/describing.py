"""Parts of the record of a training."""

from __future__ import annotations

from oblong.records import ArmInfo, BestCheckpoint, SpeechPoint
from oblong.speech.arms import AppliedArm
from oblong.speech.training.workspace import BEST


def describe_arm(applied: AppliedArm) -> ArmInfo:
    """What trains in the language model, for the record."""
    return ArmInfo(kind=applied.kind, description=applied.description, num_trainable=applied.num_trained)


def describe_best(point: SpeechPoint) -> BestCheckpoint:
    """The best evaluation, for the record."""
    wer = point.macro_wer
    assert wer is not None  # of the best one
    return BestCheckpoint(stage=point.stage, step=point.step, wer=wer, retention=point.worst_retention, directory=BEST)
