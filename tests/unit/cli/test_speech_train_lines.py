"""What `oblong speech train` writes where there is no bar."""

from __future__ import annotations

import pytest

from oblong.cli.speech.train import is_worth_a_line
from oblong.speech.training import SpeechProgress


@pytest.mark.parametrize(("total", "lines"), [(400, 10), (10, 10), (7, 7), (1, 1), (1123, 10)])
def test_a_line_for_every_tenth(total: int, lines: int) -> None:
    steps = [SpeechProgress(activity="training", done=done, total=total) for done in range(total + 1)]
    assert sum(map(is_worth_a_line, steps)) == lines
    assert is_worth_a_line(steps[-1])


def test_a_line_for_every_evaluation() -> None:
    assert is_worth_a_line(SpeechProgress(activity="evaluated", done=3, total=400))
    assert not is_worth_a_line(SpeechProgress(activity="training", done=3, total=400))
