from __future__ import annotations

import numpy as np
import pytest

from oblong.errors import SelectionError
from oblong.records import Ending
from oblong.speech.decoding import DecodingSettings
from oblong.speech.sources import Samples
from oblong.speech.transcribing import Clip, transcribe_clips
from tests.transcription_builders import ScriptedTranscriber, hear_pitch, make_silence, make_tone

SETTINGS = DecodingSettings(batch_size=2)


def test_every_clip_gets_its_own_text_whatever_the_batches() -> None:
    pitches = [300, 500, 700, 900, 1100]
    clips = [
        Clip(samples=make_tone(0.2 + place % 3, hertz=pitch), lang=["en", "de"][place % 2])
        for place, pitch in enumerate(pitches)
    ]
    transcriber = ScriptedTranscriber(hear_pitch)
    heard = transcribe_clips(transcriber, clips, SETTINGS)
    assert [transcription.text for transcription in heard] == [f"tone{pitch}" for pitch in pitches]
    # One language in a batch, longest first.
    assert transcriber.batches == [("de", [1.2, 0.2]), ("en", [2.2, 1.2]), ("en", [0.2])]


def test_ten_minutes_are_windowed_in_order_with_their_times() -> None:
    pitches = [200 + 10 * place for place in range(24)]
    samples = np.concatenate([part for hertz in pitches for part in (make_tone(24, hertz=hertz), make_silence(1))])
    transcription = transcribe_clips(ScriptedTranscriber(hear_pitch), [Clip(samples=samples)], SETTINGS)[0]
    assert transcription.seconds == 600
    assert transcription.text == " ".join(f"tone{hertz}" for hertz in pitches)
    starts = [segment.start for segment in transcription.segments]
    assert starts == pytest.approx([25 * place for place in range(24)], abs=0.02)
    assert [segment.end - segment.start for segment in transcription.segments] == pytest.approx([24] * 24, abs=0.04)


def test_31_seconds_are_two_windows() -> None:
    transcriber = ScriptedTranscriber(hear_pitch)
    transcription = transcribe_clips(transcriber, [Clip(samples=make_tone(31))], SETTINGS)[0]
    assert len(transcription.segments) == 2
    assert max(seconds for _, batch in transcriber.batches for seconds in batch) <= 30


@pytest.mark.parametrize(
    ("samples", "ending"),
    [
        (make_silence(5), Ending.SILENT),
        (make_tone(0.1), Ending.TOO_SHORT),
        (np.concatenate([make_silence(2), make_tone(0.04), make_silence(2)]), Ending.TOO_SHORT),
        (np.zeros(0, np.float32), Ending.SILENT),
    ],
)
def test_what_holds_no_word_is_not_decoded(samples: Samples, ending: Ending) -> None:
    transcriber = ScriptedTranscriber(lambda window: "Thank you.")
    transcription = transcribe_clips(transcriber, [Clip(samples=samples)], SETTINGS)[0]
    assert transcription.text == ""
    assert transcription.endings == (ending,)
    assert transcriber.batches == []


def test_a_language_that_the_model_does_not_know_is_refused_before_any_work() -> None:
    transcriber = ScriptedTranscriber(hear_pitch)
    with pytest.raises(SelectionError, match="knows no 'fr'"):
        transcribe_clips(transcriber, [Clip(samples=make_tone(1)), Clip(samples=make_tone(1), lang="fr")], SETTINGS)
    assert transcriber.batches == []


def test_progress_counts_windows() -> None:
    seen: list[tuple[int, int]] = []
    clips = [Clip(samples=make_tone(31)), Clip(samples=make_silence(1))]
    transcribe_clips(ScriptedTranscriber(hear_pitch), clips, SETTINGS, on_progress=lambda *state: seen.append(state))
    assert seen == [(3, 3)]
