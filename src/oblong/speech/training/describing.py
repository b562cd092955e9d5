"""Parts of the record of a training."""

from __future__ import annotations

from oblong.methods import MethodOptions
from oblong.records import ArmInfo, BestCheckpoint, SpeechPoint
from oblong.speech.arms import AppliedArm
from oblong.speech.training.workspace import BEST


def describe_arm(applied: AppliedArm, method: MethodOptions | None) -> ArmInfo:
    """What trains in the language model, and what is done against forgetting, for the record."""
    description = applied.description if method is None else f"{applied.description}, {describe_method(method)}"
    return ArmInfo(kind=applied.kind, description=description, num_trainable=applied.num_trained)


def describe_method(method: MethodOptions) -> str:
    """Name and strength, such as `null_space 10`."""
    return f"{method.name} {method.strength:g}"


def describe_best(point: SpeechPoint) -> BestCheckpoint:
    """The best evaluation, for the record."""
    wer = point.macro_wer
    assert wer is not None  # of the best one
    return BestCheckpoint(stage=point.stage, step=point.step, wer=wer, retention=point.worst_retention, directory=BEST)
