from __future__ import annotations

import json

import pytest

from oblong.records import Ending
from oblong.speech.subtitles import format_time, render_json, render_srt, render_text
from oblong.speech.transcribing import Segment, Transcription

HEARD = Transcription(
    seconds=12.5,
    segments=(
        Segment(start=0.25, end=3.5, text="Grüße\n\nan alle", ending=Ending.END),
        Segment(start=3.5, end=6.0, text="", ending=Ending.SILENT),
        Segment(start=6.0, end=12.5, text="und und", ending=Ending.LOOP),
    ),
)


def test_subtitles_number_what_was_said_and_mark_what_was_cut() -> None:
    assert render_srt("a.wav", HEARD) == (
        "1\n00:00:00,250 --> 00:00:03,500\nGrüße an alle\n\n2\n00:00:06,000 --> 00:00:12,500\nund und ...\n"
    )


def test_json_is_one_line_with_the_endings() -> None:
    line = render_json("a.wav", HEARD)
    assert line.count("\n") == 1
    parsed = json.loads(line)
    assert parsed["audio"] == "a.wav"
    assert [segment["ending"] for segment in parsed["segments"]] == ["end", "silent", "loop"]


def test_text_is_text() -> None:
    assert render_text("a.wav", HEARD) == "Grüße an alle und und\n"
    assert render_text("a.wav", Transcription(seconds=1.0, segments=())) == "\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00:00,000"), (59.9996, "00:01:00,000"), (3723.0419, "01:02:03,042")]
)
def test_times_carry_over(seconds: float, text: str) -> None:
    assert format_time(seconds) == text
