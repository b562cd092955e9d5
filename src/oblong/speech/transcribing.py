"""Clips of any length to text: windowed at pauses, silence left out, batched across clips, put back in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from oblong.records import Ending
from oblong.speech.decoding import DecodingSettings
from oblong.speech.sources import SAMPLE_RATE, Samples
from oblong.speech.transcribers import Heard, Transcriber
from oblong.speech.windows import MIN_SOUND_SECONDS, cut_windows, find_sound

OnProgress = Callable[[int, int], None]
CUT: Final = (Ending.LOOP, Ending.LIMIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Audio with its language; None lets the model find out."""

    samples: Samples
    lang: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A window of a clip: from where to where sound is in it, in seconds, and its text, which may be empty."""

    start: float
    end: float
    text: str
    ending: Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcription:
    """What a clip was heard to say."""

    seconds: float
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The segments' texts, joined by spaces."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def endings(self) -> tuple[Ending, ...]:
        """How each window ended."""
        return tuple(segment.ending for segment in self.segments)

    @property
    def num_cut(self) -> int:
        """Windows whose text was cut because it looped or ran on."""
        return sum(ending in CUT for ending in self.endings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A window on its way through the model; `start` and `end` bound its sound within the clip, in samples."""

    clip: int
    samples: Samples
    lang: str | None
    start: int
    end: int
    outcome: Heard | None


def transcribe_clips(
    transcriber: Transcriber,
    clips: Sequence[Clip],
    settings: DecodingSettings,
    *,
    on_progress: OnProgress | None = None,
) -> list[Transcription]:
    """Transcribe clips.

    Args:
        transcriber: the model.
        clips: `N` clips of any length.
        settings: how to decode; no window is longer than the model takes.
        on_progress: called with the windows that are done and their total.

    Returns:
        `N` transcriptions, in order.

    Raises:
        SelectionError: the model does not know a language.
    """
    for lang in {clip.lang for clip in clips}:
        transcriber.check_language(lang)
    longest = min(settings.window_seconds, transcriber.max_seconds)
    jobs = [job for number, clip in enumerate(clips) for job in _prepare(number, clip, longest)]
    heard: dict[int, Heard] = {place: job.outcome for place, job in enumerate(jobs) if job.outcome is not None}
    for batch in _form_batches(jobs, settings.batch_size):
        windows = [jobs[place].samples for place in batch]
        heard |= zip(batch, transcriber.transcribe(windows, jobs[batch[0]].lang, settings), strict=True)
        if on_progress is not None:
            on_progress(len(heard), len(jobs))
    segments = [(job.clip, _make_segment(job, heard[place])) for place, job in enumerate(jobs)]
    return [
        Transcription(
            seconds=len(clip.samples) / SAMPLE_RATE,
            segments=tuple(segment for owner, segment in segments if owner == number),
        )
        for number, clip in enumerate(clips)
    ]


def _prepare(number: int, clip: Clip, longest: float) -> Iterator[_Job]:
    """Windows of a clip; those without sound already have their outcome."""
    for window in cut_windows(clip.samples, longest):
        samples = clip.samples[window.start : window.end]
        sound = find_sound(samples)
        yield _Job(
            clip=number,
            samples=samples,
            lang=clip.lang,
            start=window.start + (0 if sound is None else sound.start),
            end=window.end if sound is None else window.start + sound.end,
            outcome=_judge(None if sound is None else sound.seconds),
        )


def _judge(sound_seconds: float | None) -> Heard | None:
    """The outcome of a window that is not worth decoding; None for one that is."""
    if sound_seconds is not None and sound_seconds >= MIN_SOUND_SECONDS:
        return None
    ending = Ending.SILENT if sound_seconds is None else Ending.TOO_SHORT
    return Heard(text="", num_tokens=0, ending=ending)


def _form_batches(jobs: Sequence[_Job], batch_size: int) -> Iterator[list[int]]:
    """Places of jobs to decode together: of one language, longest first, since equal lengths need no padding."""
    waiting = [place for place, job in enumerate(jobs) if job.outcome is None]
    waiting.sort(key=lambda place: (jobs[place].lang or "", -len(jobs[place].samples)))
    for _, members in groupby(waiting, key=lambda place: jobs[place].lang):
        places = list(members)
        for begin in range(0, len(places), batch_size):
            yield places[begin : begin + batch_size]


def _make_segment(job: _Job, heard: Heard) -> Segment:
    return Segment(start=job.start / SAMPLE_RATE, end=job.end / SAMPLE_RATE, text=heard.text, ending=heard.ending)
