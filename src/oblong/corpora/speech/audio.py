"""Sound files in: 16 kHz mono float32, whatever was on the disk.

WAV, FLAC and Ogg are decoded by libsndfile; MP3, G.722 and the rest by FFmpeg through PyAV; soxr resamples. Channels
are averaged before resampling. Silence is sound; that a transcript does not fit it is judged in
`oblong.corpora.speech.usable`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from oblong.corpora.speech.decoders import CORRUPT, MISSING, Decoded, decode, measure
from oblong.errors import AudioError, MissingExtraError

SAMPLE_RATE: Final = 16_000
MAX_RATE_HZ: Final = 768_000
EMPTY: Final = "empty"

Samples: TypeAlias = NDArray[np.float32]
"""(num_samples,) float32 at 16 kHz; full scale is 1, and a loud file may exceed it."""


def load_audio(path: Path) -> Samples:
    """Decode a sound file to 16 kHz mono.

    Returns:
        (num_samples,) float32, num_samples >= 1.

    Raises:
        AudioError: missing, empty, cut off or no sound file; the message names the file and the reason.
        MissingExtraError: the decoding libraries are not installed.
    """
    _require_file(path)
    return _standardise(decode(path, path), path)


def decode_audio(data: bytes, name: Path) -> Samples:
    """The same for bytes in memory; `name` is for messages, and its suffix tells formats that have no header.

    Raises:
        AudioError: as for `load_audio`.
    """
    if not data:
        raise AudioError(name, "holds no data", kind=EMPTY)
    return _standardise(decode(io.BytesIO(data), name), name)


def read_sound_file(path: Path) -> bytes:
    """The bytes of a sound file, for `decode_audio`.

    Raises:
        AudioError: missing, empty or unreadable.
    """
    _require_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise AudioError(path, f"cannot be read: {error.strerror}", kind=MISSING) from error


def measure_seconds(path: Path) -> float:
    """Duration in seconds, from the header where the format has one.

    Raises:
        AudioError: as for `load_audio`.
    """
    _require_file(path)
    seconds = measure(path)
    return load_audio(path).size / SAMPLE_RATE if seconds is None else seconds


def resample(samples: Samples, rate: float) -> Samples:
    """From `rate` Hz to 16 kHz, with soxr's high quality.

    Args:
        samples: (num_samples,) float32.
        rate: of the samples, Hz; need not be whole.
    """
    if rate == SAMPLE_RATE:
        return samples
    try:
        import soxr
    except ImportError:
        raise MissingExtraError("resampling sound", "speech") from None
    resampled: Samples = soxr.resample(samples, rate, SAMPLE_RATE, "HQ").astype(np.float32, copy=False)
    return resampled


def _require_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise AudioError(path, "no such file", kind=MISSING) from None
    except OSError as error:
        raise AudioError(path, f"cannot be read: {error.strerror}", kind=MISSING) from error
    if not path.is_file():
        raise AudioError(path, "is not a file", kind=MISSING)
    if size == 0:
        raise AudioError(path, "the file is empty (0 bytes)", kind=EMPTY)


def _standardise(decoded: Decoded, path: Path) -> Samples:
    if not 0 < decoded.rate <= MAX_RATE_HZ:
        raise AudioError(path, f"claims an impossible sampling rate of {decoded.rate} Hz", kind=CORRUPT)
    if decoded.samples.size == 0:
        raise AudioError(path, "holds no samples", kind=EMPTY)
    mono = decoded.samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise AudioError(path, "holds samples that are not finite (NaN or infinite)", kind=CORRUPT)
    samples = resample(np.ascontiguousarray(mono), decoded.rate)
    if samples.size == 0:
        raise AudioError(path, f"holds only {len(mono)} samples at {decoded.rate} Hz", kind=EMPTY)
    return samples
