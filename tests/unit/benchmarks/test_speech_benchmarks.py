"""What the benchmarks of speech conclude from what they measured."""

from __future__ import annotations

import pytest
import torch

from benchmarks import speech_prefix, trailing_silence
from benchmarks.timing import Measured, measure


def test_a_call_is_timed_and_its_result_kept() -> None:
    measured = measure(lambda: sum(range(200_000)))
    assert measured.result == 199_999 * 100_000
    assert measured.seconds > 0
    assert measured.cpu_seconds > 0


def test_frames_of_both_ways_are_compared_over_all_clips() -> None:
    def heard(seconds: float, frames: list[list[float]]) -> Measured[torch.Tensor]:
        return Measured(seconds=seconds, cpu_seconds=2 * seconds, result=torch.tensor(frames))

    pairs = [
        (heard(4.0, [[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), heard(1.0, [[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]])),
        (heard(6.0, [[1.0, 0.0]]), heard(3.0, [[0.0, 1.0]])),
    ]
    figures = trailing_silence.summarise(pairs)
    assert (figures["clips"], figures["frames"]) == (2, 4)
    assert (figures["window_seconds_per_clip"], figures["silence_cpu_seconds_per_clip"]) == (5.0, 4.0)
    assert figures["cpu_ratio"] == pytest.approx((0.25 + 0.5) / 2)
    assert figures["mean_cosine"] == pytest.approx(0.75)
    assert figures["smallest_cosine"] == pytest.approx(0.0)


@pytest.mark.parametrize(("plain", "loss", "expected"), [(1.1, 2.01, True), (0.9, 2.01, False), (1.1, 2.03, False)])
def test_sharing_is_worth_it_where_it_is_faster_and_says_the_same(plain: float, loss: float, expected: bool) -> None:
    times = {speech_prefix.CHOSEN: 1.0, speech_prefix.PLAIN: plain}
    rows = [{"way": str(way), "times_chosen": times.get(way, 0.5), "loss": 2.0} for way in speech_prefix.WAYS]
    rows[-1]["loss"] = loss
    assert speech_prefix.is_worth_it(rows) is expected
