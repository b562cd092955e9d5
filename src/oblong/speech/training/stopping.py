"""When a stage ends and which evaluation was the best: pure functions of the evaluations so far.

Nothing is remembered between calls, so a resumed run decides as an uninterrupted one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from oblong.records import SpeechPoint, SpeechRunStatus
from oblong.speech.training.recipe import AlignRecipe, StopRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a run ends."""

    status: SpeechRunStatus
    reason: str


def find_aligned_step(points: Sequence[SpeechPoint], gate: float | None) -> int | None:
    """The first evaluated step at which the gate was open; None too where there is no gate."""
    if gate is None:
        return None
    return next((point.step for point in points if point.alignment_gap >= gate), None)


def plan_align_end(points: Sequence[SpeechPoint], recipe: AlignRecipe) -> int:
    """The step at which stage A ends, as far as is known now."""
    aligned_at = find_aligned_step(points, recipe.gate)
    if aligned_at is None:
        return recipe.max_steps
    return min(recipe.max_steps, max(recipe.min_steps, aligned_at + recipe.after_gate_steps))


def judge_alignment(points: Sequence[SpeechPoint], recipe: AlignRecipe) -> Verdict | None:
    """At the end of stage A: the reason not to go on, if there is one."""
    if recipe.gate is None or find_aligned_step(points, recipe.gate) is not None:
        return None
    best = max(points, key=lambda point: point.alignment_gap)
    return Verdict(
        status=SpeechRunStatus.NOT_ALIGNED,
        reason=(
            f"the alignment gate did not open in {recipe.max_steps} steps: with true audio the model predicts at most "
            f"{best.alignment_gap:+.1%} more tokens than with another utterance's (step {best.step}), and "
            f"{recipe.gate:.0%} are asked for. Raise align.learning_rate, align.max_steps or the amount of data"
        ),
    )


def judge_adaptation(points: Sequence[SpeechPoint], rules: StopRecipe) -> Verdict | None:
    """After an evaluation of stage B: why to stop now, if at all; forgetting comes before what was learned."""
    last = points[-1]
    limit = rules.max_perplexity_ratio
    if limit is not None and is_over_budget(last, limit):
        name, text = max(last.retention.items(), key=lambda item: item[1].ratio)
        return Verdict(
            status=SpeechRunStatus.FORGETTING,
            reason=f"at step {last.step} the perplexity of {name!r} is {text.ratio:.3f} times that of the untouched "
            f"language model, more than {limit:g}",
        )
    wer = last.macro_wer
    if rules.wer is not None and wer is not None and wer <= rules.wer:
        return Verdict(
            status=SpeechRunStatus.TARGET, reason=f"WER {wer:.1%} at step {last.step}; {rules.wer:.1%} was the target"
        )
    waited = len(points) - 1 - _find_lowest(points)
    if rules.patience is not None and waited >= rules.patience:
        return Verdict(
            status=SpeechRunStatus.PATIENCE, reason=f"no better WER in {waited} evaluations, up to step {last.step}"
        )
    return None


def find_best(points: Sequence[SpeechPoint], rules: StopRecipe) -> SpeechPoint | None:
    """The lowest macro-averaged WER within the retention budget; of equals the one that forgot least, then the first.

    None where no evaluation has a WER or is within the budget.
    """
    limit = rules.max_perplexity_ratio
    allowed = [
        point for point in points if point.macro_wer is not None and (limit is None or not is_over_budget(point, limit))
    ]
    return min(allowed, key=_rank, default=None)


def is_over_budget(point: SpeechPoint, limit: float) -> bool:
    """Whether a text became worse than `limit` times the untouched model's perplexity."""
    worst = point.worst_retention
    return worst is not None and worst > limit


def _rank(point: SpeechPoint) -> tuple[float, float, int]:
    wer = point.macro_wer
    return (math.inf if wer is None else wer, point.worst_retention or 1.0, point.step)


def _find_lowest(points: Sequence[SpeechPoint]) -> int:
    wers = [math.inf if point.macro_wer is None else point.macro_wer for point in points]
    return wers.index(min(wers))
