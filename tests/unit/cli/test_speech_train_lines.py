"""What `oblong speech train` writes where there is no bar."""

from __future__ import annotations

import pytest

from oblong.cli.speech.train import describe_forecast, is_worth_a_line
from oblong.speech.training import SpeechProgress
from oblong.speech.training.forecast import SpeechForecast


@pytest.mark.parametrize(("total", "lines"), [(400, 10), (10, 10), (7, 7), (1, 1), (1123, 10)])
def test_a_line_for_every_tenth(total: int, lines: int) -> None:
    steps = [SpeechProgress(activity="training", done=done, total=total) for done in range(total + 1)]
    assert sum(map(is_worth_a_line, steps)) == lines
    assert is_worth_a_line(steps[-1])


def test_a_line_for_every_evaluation() -> None:
    assert is_worth_a_line(SpeechProgress(activity="evaluated", done=3, total=400))
    assert not is_worth_a_line(SpeechProgress(activity="training", done=3, total=400))


FORECAST = SpeechForecast(
    num_encoder=1,
    num_adaptor=1,
    num_language_model=100,
    num_arm=10,
    weight_bytes=1,
    optimizer_bytes=1,
    activation_bytes=1,
    tokens_per_step=500,
    align_steps=0,
    adapt_steps=100,
    seconds_per_step=2.0,
)


def test_a_forecast_says_what_the_method_adds() -> None:
    plain = dict(describe_forecast(FORECAST))
    assert plain["tokens per step"] == "at most 500"
    assert plain["time per step"] == "2.0 s"
    assert plain["training"].startswith("at most 3 min 20 s")
    held = FORECAST.model_copy(update={"method_bytes": 5, "method_tokens": 128, "method_seconds": 1.0})
    lines = dict(describe_forecast(held))
    assert lines["tokens per step"] == "at most 500, and 128 of old text in stage B"
    assert lines["time per step"] == "2.0 s, and 1.0 s for the method in stage B"
    assert lines["training"].startswith("at most 5 min")
    untimed = dict(describe_forecast(FORECAST.model_copy(update={"method_bytes": 5})))
    assert untimed["time per step"] == "2.0 s, the method's not counted"
