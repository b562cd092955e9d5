from __future__ import annotations

import math
from itertools import pairwise

import pytest

from oblong.records import (
    AlignmentProbe,
    ErrorCounts,
    SpeechPoint,
    SpeechRunStatus,
    SpeechStage,
    TextRetention,
    TrainingPoint,
    WordErrors,
)
from oblong.speech.training.recipe import AlignRecipe, StopRecipe
from oblong.speech.training.stage import compute_rate_factor, summarise_losses
from oblong.speech.training.stopping import (
    find_best,
    judge_adaptation,
    judge_alignment,
    plan_align_end,
)


def make_point(step: int, *, errors: int | None = None, ratio: float = 1.0, gap: float = 0.0) -> SpeechPoint:
    """An evaluation with `errors` of 100 words wrong."""
    words = ErrorCounts(hits=100 - min(100, errors or 0), substitutions=errors or 0)
    wer = WordErrors(words=words, interval=None, num_utterances=10, num_empty=0, num_loops=0)
    return SpeechPoint(
        stage=SpeechStage.ADAPT,
        step=step,
        seconds=step,
        num_utterances=step,
        loss=1.0,
        alignment=AlignmentProbe(
            num_utterances=8,
            loss=1.0,
            token_accuracy=0.4 + gap,
            shuffled_accuracy=0.4,
            pairwise_cosine=0.1,
            rms_ratio=1.0,
        ),
        wer={} if errors is None else {"human": wer},
        retention={"prose": TextRetention(loss=3.0, ratio=ratio)},
    )


def test_stage_a_ends_some_steps_after_the_gate_and_within_its_bounds() -> None:
    recipe = AlignRecipe(gate=0.2, max_steps=100, min_steps=30, after_gate_steps=15)
    shut = [make_point(0), make_point(10, gap=0.1)]
    assert plan_align_end(shut, recipe) == 100
    assert plan_align_end([*shut, make_point(10, gap=0.25)], recipe) == 30
    assert plan_align_end([*shut, make_point(40, gap=0.25), make_point(50)], recipe) == 55
    assert plan_align_end([*shut, make_point(95, gap=0.25)], recipe) == 100


def test_a_gate_that_stays_shut_is_explained() -> None:
    recipe = AlignRecipe(gate=0.2, max_steps=20)
    verdict = judge_alignment([make_point(0), make_point(10, gap=0.12), make_point(20, gap=0.05)], recipe)
    assert verdict is not None
    assert verdict.status is SpeechRunStatus.NOT_ALIGNED
    for part in ("+12.0%", "step 10", "20%", "align.learning_rate"):
        assert part in verdict.reason
    assert judge_alignment([make_point(0), make_point(20, gap=0.2)], recipe) is None


@pytest.mark.parametrize(
    ("errors", "ratios", "rules", "status"),
    [
        ([50, 40, 30], [1, 1, 1], StopRecipe(), None),
        ([50, 40, 30], [1, 1, 1], StopRecipe(wer=0.3), SpeechRunStatus.TARGET),
        ([50, 30, 30, 31], [1, 1, 1, 1], StopRecipe(patience=2), SpeechRunStatus.PATIENCE),
        ([50, 30, 30, 29], [1, 1, 1, 1], StopRecipe(patience=2), None),
        ([50, 30], [1, 1.2], StopRecipe(max_perplexity_ratio=1.1), SpeechRunStatus.FORGETTING),
        ([50, 30], [1, 1.1], StopRecipe(max_perplexity_ratio=1.1), None),
        ([50, 10], [1, 1.2], StopRecipe(wer=0.3, max_perplexity_ratio=1.1), SpeechRunStatus.FORGETTING),
    ],
)
def test_rules_of_stage_b(
    errors: list[int], ratios: list[float], rules: StopRecipe, status: SpeechRunStatus | None
) -> None:
    pairs = zip(errors, ratios, strict=True)
    points = [make_point(step, errors=wrong, ratio=ratio) for step, (wrong, ratio) in enumerate(pairs)]
    verdict = judge_adaptation(points, rules)
    assert (verdict and verdict.status) == status


def test_the_best_checkpoint_has_the_lowest_wer_within_the_budget_and_forgot_least_among_equals() -> None:
    points = [
        make_point(0, errors=50),
        make_point(1, errors=30, ratio=1.05),
        make_point(2, errors=30, ratio=1.02),
        make_point(3, errors=10, ratio=1.5),
    ]
    assert find_best(points, StopRecipe()) is points[3]
    assert find_best(points, StopRecipe(max_perplexity_ratio=1.1)) is points[2]
    assert find_best([make_point(0)], StopRecipe()) is None


def test_the_rate_rises_to_its_peak_and_falls_to_its_share() -> None:
    factors = [compute_rate_factor(step, num_steps=21, warmup=4, final_share=0.1) for step in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    # Half of the cosine: (1 + 0.1) / 2.
    assert factors[12] == pytest.approx(0.55)
    assert factors[20] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(factors[4:]))
    assert compute_rate_factor(0, num_steps=1, warmup=1, final_share=0.1) == 1.0


def test_the_loss_curve_has_the_first_step_a_mean_per_group_and_the_last() -> None:
    losses = [TrainingPoint(step=step, loss=float(step), learning_rate=1.0, gradient_norm=None) for step in range(1, 8)]
    points = summarise_losses(losses, every=3)
    assert [(point.step, point.loss) for point in points] == [(1, 1.0), (3, 2.5), (6, 5.0), (7, 7.0)]
    assert summarise_losses([], every=3) == ()
    assert not math.isnan(points[0].learning_rate)


def test_without_a_gate_the_steps_end_stage_a() -> None:
    recipe = AlignRecipe(gate=None, max_steps=40)
    points = [make_point(0, gap=-0.1), make_point(40, gap=0.9)]
    assert plan_align_end(points, recipe) == 40
    assert judge_alignment(points, recipe) is None
