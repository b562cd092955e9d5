"""SpeechRuns that nobody ran: smooth curves of word errors and retention, for the tests of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from oblong.records import ErrorCounts, Interval, SpeechPoint, SpeechRun, SpeechStage
from oblong.records.base import Provenance
from oblong.records.speech_run import (
    AlignmentProbe,
    ArmInfo,
    BestCheckpoint,
    SpeechData,
    SpeechRunStatus,
    StageRecord,
    TextRetention,
    WordErrors,
)

NUM_WORDS = 400
STEP_SECONDS = 12.0


def make_word_errors(wer: float, *, num_loops: int = 0) -> WordErrors:
    """Substitutions alone; beyond 1 the rest are insertions."""
    errors = round(wer * NUM_WORDS)
    wrong = min(errors, NUM_WORDS)
    words = ErrorCounts(hits=NUM_WORDS - wrong, substitutions=wrong, insertions=errors - wrong)
    interval = Interval(mean=wer, low=0.9 * wer, high=1.1 * wer, num_resamples=100)
    return WordErrors(words=words, interval=interval, num_utterances=60, num_empty=0, num_loops=num_loops)


def make_point(
    stage: SpeechStage, step: int, wer: Mapping[str, float], retention: Mapping[str, float], *, pace: float = 1.0
) -> SpeechPoint:
    """An evaluation after `step` steps of `STEP_SECONDS * pace`."""
    return SpeechPoint(
        stage=stage,
        step=step,
        seconds=step * STEP_SECONDS * pace,
        num_utterances=8 * step,
        loss=None if step == 0 else 1.0,
        alignment=AlignmentProbe(
            num_utterances=8,
            loss=1.0,
            token_accuracy=0.6,
            shuffled_accuracy=0.2,
            pairwise_cosine=0.1,
            rms_ratio=1.0,
        ),
        wer={name: make_word_errors(rate) for name, rate in wer.items()},
        retention={name: TextRetention(loss=3 + math.log(ratio), ratio=ratio) for name, ratio in retention.items()},
    )


def make_stage(stage: SpeechStage, num_steps: int) -> StageRecord:
    """A stage of the same pace."""
    return StageRecord(
        stage=stage,
        num_steps=num_steps,
        num_utterances=8 * num_steps,
        num_tokens=800 * num_steps,
        seconds=num_steps * STEP_SECONDS,
        num_trainable=1_000_000,
        history=(),
    )


def make_data(name: str, *, num_limited: int = 0) -> SpeechData:
    """A manifest of 60 clips."""
    return SpeechData(
        manifest=f"{name}.jsonl", digest="sha256:0", num_utterances=60, num_limited=num_limited, seconds=180.0
    )


def make_speech_run(
    name: str = "kappa-lowest",
    *,
    seed: int = 0,
    points: Sequence[SpeechPoint] | None = None,
    num_trainable: int = 10_000_000,
    status: SpeechRunStatus = SpeechRunStatus.COMPLETED,
) -> SpeechRun:
    """A run; by default one of two evaluations in stage B. The kept checkpoint is the one with the lowest mean WER."""
    if points is None:
        points = [
            make_point(SpeechStage.ADAPT, 0, {"english": 0.8}, {"prose": 1.0}),
            make_point(SpeechStage.ADAPT, 10, {"english": 0.4}, {"prose": 1.05}),
        ]
    best = min(points, key=lambda point: point.macro_wer or 0.0) if points else None
    sets = list(points[0].wer) if points else []
    stages = {stage: max(point.step for point in points if point.stage is stage) for stage in {p.stage for p in points}}
    return SpeechRun(
        name=name,
        encoder="whisper-base",
        language_model="demo",
        arm=ArmInfo(kind="plan", description=f"41 tensors of {name}.yaml", num_trainable=num_trainable),
        recipe={"seed": seed},
        seed=seed,
        status=status,
        reason="all steps are done",
        num_adaptor=2_000_000,
        num_parameters=160_000_000,
        train=(make_data("train"),),
        evaluate={name: make_data(name) for name in sets},
        base_retention={"prose": 3.0},
        stages=tuple(make_stage(stage, steps) for stage, steps in sorted(stages.items())),
        points=tuple(points),
        best=best
        and BestCheckpoint(
            stage=best.stage,
            step=best.step,
            wer=best.macro_wer or 0.0,
            retention=best.worst_retention,
            directory="best",
        ),
        peak_memory_bytes=10**9,
        provenance=Provenance.here(),
    )


def make_curve(
    name: str, *, seed: int = 0, speed: float, forgetting: float, aligned: bool = False, pace: float = 1.0
) -> SpeechRun:
    """Word errors of two sets that fall and perplexities of two texts that rise, each seed a little different."""
    steps = range(0, 241, 20)
    wobble = 0.03 * math.sin(3 * seed + len(name))
    points = []
    if aligned:
        points = [
            make_point(
                SpeechStage.ALIGN,
                step,
                {"english": 1.6 - 0.004 * step, "german": 2.0 - 0.004 * step},
                {"prose": 1.0, "code": 1.0},
            )
            for step in range(0, 161, 40)
        ]
    for step in steps:
        fall = math.exp(-speed * step / 100)
        wer = {"english": 0.18 + 0.75 * fall + wobble * (1 - fall), "german": 0.45 + 0.75 * fall + wobble * (1 - fall)}
        rise = forgetting * (1 + wobble) * step / 240
        points.append(make_point(SpeechStage.ADAPT, step, wer, {"prose": 1 + rise, "code": 1 + rise / 2}, pace=pace))
    return make_speech_run(name, seed=seed, points=points)
