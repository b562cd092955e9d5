"""Long audio in windows that a model can take, cut where nobody speaks; and what is not worth decoding.

A speech model asked about silence does not answer with nothing, it invents: "Thank you.", or a refusal. So a window is
decoded only if enough of it is louder than a gate. The gate is low, to lose no quiet speaker; a noisy room passes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from oblong.speech.sources import SAMPLE_RATE, Samples

FRAME_SAMPLES: Final = 320  # 20 ms
FLOOR_DB: Final = -90.0  # quieter than the rounding of 16 bits: all the same silence
GATE_DB: Final = -60.0  # of full scale; speech recorded at a usable level lies above -40
MIN_SOUND_SECONDS: Final = 0.12  # a spoken "a" takes longer; a click does not
PAUSE_FRAMES: Final = 15  # 0.3 s: the pause of a comma, longer than the closure of a stop consonant

Loudness = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Samples `start` to `end` of a clip."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Where a window is louder than the gate: from the first to the last such frame, and for how long in all."""

    start: int
    end: int
    seconds: float


def cut_windows(samples: Samples, max_seconds: float) -> Sequence[Window]:
    """Cut a clip at its quietest places.

    Args:
        samples: shape (num_samples,), 16 kHz.
        max_seconds: no window is longer; all but the last are at least half as long.

    Returns:
        Windows that cover the clip without gap or overlap.
    """
    limit = int(max_seconds * SAMPLE_RATE)
    quietness = _smooth(measure_loudness(samples)) if len(samples) > limit else None
    cuts = [0]
    while quietness is not None and len(samples) - cuts[-1] > limit:
        cuts.append(_find_pause(quietness, cuts[-1] + limit // 2, cuts[-1] + limit))
    ends = [*cuts[1:], len(samples)]
    return [Window(start=start, end=end) for start, end in zip(cuts, ends, strict=True)]


def find_sound(samples: Samples) -> Sound | None:
    """Where a window is louder than the gate; None where nowhere."""
    loud = np.flatnonzero(measure_loudness(samples) > GATE_DB)
    if not len(loud):
        return None
    end = min(len(samples), (int(loud[-1]) + 1) * FRAME_SAMPLES)
    seconds = min(len(loud) * FRAME_SAMPLES, len(samples)) / SAMPLE_RATE
    return Sound(start=int(loud[0]) * FRAME_SAMPLES, end=end, seconds=seconds)


def measure_loudness(samples: Samples) -> Loudness:
    """Loudness of frames of 20 ms, shape (ceil(num_samples / 320),), decibels of full scale.

    10 log10 mean (x - mean x)^2: an offset of the microphone is no sound.
    """
    if not len(samples):
        return np.zeros(0)
    centred = samples.astype(np.float64) - samples.mean(dtype=np.float64)
    starts = np.arange(0, len(samples), FRAME_SAMPLES)
    lengths = np.minimum(FRAME_SAMPLES, len(samples) - starts)
    power = np.add.reduceat(centred**2, starts) / lengths
    loudness: Loudness = np.maximum(10 * np.log10(power + 1e-30), FLOOR_DB)
    return loudness


def _smooth(loudness: Loudness) -> Loudness:
    return np.convolve(loudness, np.full(PAUSE_FRAMES, 1 / PAUSE_FRAMES), mode="same")


def _find_pause(loudness: Loudness, first: int, last: int) -> int:
    """The sample in the middle of the quietest frame from `first` on and before `last`; of equals the last one."""
    begin, stop = -(-first // FRAME_SAMPLES), last // FRAME_SAMPLES
    among = np.round(loudness[begin:stop], 6)  # sums of equal numbers differ in their last bits
    frame = stop - 1 - int(np.argmin(among[::-1]))
    return frame * FRAME_SAMPLES + FRAME_SAMPLES // 2
