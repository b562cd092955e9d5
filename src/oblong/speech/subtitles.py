"""What was heard as text, JSON or SubRip subtitles.

Times are those of the windows, from their first to their last audible sound: where in a window a word was said, the
model does not tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final

from oblong.speech.transcribing import CUT, Segment, Transcription

Render = Callable[[str, Transcription], str]

SUBTITLES: Final = "srt"
SUBTITLE_WINDOW_SECONDS: Final = 7.0  # the longest cue of broadcasters' style guides


def render_text(name: str, transcription: Transcription) -> str:
    """The text alone, on one line."""
    return " ".join(transcription.text.split()) + "\n"


def render_json(name: str, transcription: Transcription) -> str:
    """One JSON object on one line: audio, seconds, text, segments with start, end, text and ending."""
    segments = [
        {"start": segment.start, "end": segment.end, "text": segment.text, "ending": segment.ending.value}
        for segment in transcription.segments
    ]
    whole = {"audio": name, "seconds": transcription.seconds, "text": transcription.text, "segments": segments}
    return json.dumps(whole, ensure_ascii=False) + "\n"


def render_srt(name: str, transcription: Transcription) -> str:
    """SubRip: numbered cues; a window without text has none, one that was cut ends in an ellipsis."""
    spoken = [segment for segment in transcription.segments if segment.text]
    return "\n".join(_render_cue(number, segment) for number, segment in enumerate(spoken, 1))


def format_time(seconds: float) -> str:
    """`00:01:02,345`."""
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"


def _render_cue(number: int, segment: Segment) -> str:
    """One cue; its text is one paragraph, since a blank line would end it."""
    text = " ".join(segment.text.split()) + (" ..." if segment.ending in CUT else "")
    return f"{number}\n{format_time(segment.start)} --> {format_time(segment.end)}\n{text}\n"


RENDERERS: Final[Mapping[str, Render]] = {"text": render_text, "json": render_json, SUBTITLES: render_srt}
SUFFIXES: Final[Mapping[str, str]] = {"text": ".txt", "json": ".json", SUBTITLES: ".srt"}
