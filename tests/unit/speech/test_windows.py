from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oblong.speech.sources import SAMPLE_RATE, Samples
from oblong.speech.windows import FLOOR_DB, cut_windows, find_sound, measure_loudness
from tests.transcription_builders import make_silence, make_tone


def join(*parts: Samples) -> Samples:
    return np.concatenate(parts)


def test_short_audio_is_one_window() -> None:
    samples = make_tone(30)
    assert [(window.start, window.end) for window in cut_windows(samples, 30)] == [(0, len(samples))]


def test_long_audio_is_cut_in_its_pauses() -> None:
    # Pauses of one second begin at 20 s and at 45 s; the second window begins in the first of them.
    samples = join(make_tone(20), make_silence(1), make_tone(24), make_silence(1), make_tone(10))
    first, second, third = cut_windows(samples, 30)
    assert 20 < first.end / SAMPLE_RATE < 21
    assert 45 < second.end / SAMPLE_RATE < 46
    assert third.end == len(samples)


def test_of_equal_pauses_the_last_is_taken() -> None:
    samples = join(*[part for _ in range(8) for part in (make_tone(4), make_silence(1))])
    assert 29 < cut_windows(samples, 30)[0].end / SAMPLE_RATE <= 30


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 100), st.floats(1, 30), st.integers(0, 3))
def test_windows_cover_everything_once_and_none_is_too_long(seconds: float, longest: float, seed: int) -> None:
    samples = np.random.default_rng(seed).normal(size=int(seconds * SAMPLE_RATE)).astype(np.float32)
    windows = cut_windows(samples, longest)
    assert windows[0].start == 0
    assert windows[-1].end == len(samples)
    assert all(before.end == after.start for before, after in itertools.pairwise(windows))
    lengths = [(window.end - window.start) / SAMPLE_RATE for window in windows]
    assert max(lengths) <= longest
    assert min(lengths[:-1], default=longest) >= longest / 2 - 0.001


def test_loudness_is_in_decibels_of_full_scale() -> None:
    # A sine of amplitude 0.1 has mean square 0.005: -23.0 dB.
    assert measure_loudness(make_tone(1, amplitude=0.1))[10] == pytest.approx(-23.01, abs=0.05)
    assert np.all(measure_loudness(make_silence(1)) == FLOOR_DB)


def test_sound_is_found_between_silences() -> None:
    sound = find_sound(join(make_silence(1), make_tone(0.5), make_silence(2)))
    assert sound is not None
    assert (sound.start / SAMPLE_RATE, sound.end / SAMPLE_RATE, sound.seconds) == (1.0, 1.5, 0.5)


@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_silence_is_silence_whatever_the_microphones_offset(offset: float) -> None:
    hum = make_tone(2, hertz=50, amplitude=0.0005) + np.float32(offset)  # -69 dB
    assert find_sound(hum) is None
    assert find_sound(np.zeros(0, np.float32)) is None
