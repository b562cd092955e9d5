"""Where utterances and samples come from: the one place that reads manifests and audio files for this package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from oblong.errors import AudioError, DataError, MissingExtraError

SAMPLE_RATE: Final = 16_000
REQUIRED: Final = ("audio", "text", "lang")

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Utterance:
    """A line of a manifest. `duration` in seconds, if it is known."""

    audio: Path
    text: str
    lang: str
    duration: float | None = None
    speaker: str = ""
    source: str = ""
    licence: str = ""


def read_manifest(path: Path) -> list[Utterance]:
    """Read a JSON Lines manifest; relative audio paths are relative to it.

    Raises:
        DataError: it cannot be read; the message names the line and the field.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return [_read_line(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]


def _read_line(line: str, path: Path, number: int) -> Utterance:
    place = f"{path} line {number}"
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: is not valid JSON: {error}") from error
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: is not a JSON object")
    for field in REQUIRED:
        if not isinstance(row.get(field), str):
            raise DataError(f"{place}: field {field!r} is missing or not text")
    return Utterance(
        audio=path.parent / row["audio"],
        text=row["text"],
        lang=row["lang"],
        duration=row.get("duration"),
        speaker=str(row.get("speaker", "")),
        source=str(row.get("source", "")),
        licence=str(row.get("licence", "")),
    )


def load_audio(path: Path) -> Samples:
    """Decode a file.

    Returns:
        Samples, shape (num_samples,), float32, mono, 16 kHz.

    Raises:
        AudioError: missing, empty or not decodable.
        MissingExtraError: the audio libraries are not installed.
    """
    try:
        import av
        import soundfile
        import soxr
    except ImportError as error:
        raise MissingExtraError("reading audio", "speech") from error
    if not path.is_file():
        raise AudioError(path, "no such file", kind="missing")
    try:
        channels, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        try:
            channels, rate = _decode_with_av(path, av)
        except (av.FFmpegError, IndexError, ValueError) as error:
            raise AudioError(path, f"cannot be decoded as audio: {error}", kind="corrupt") from error
    mono = np.asarray(channels, dtype=np.float32).mean(axis=1)
    if not len(mono):
        raise AudioError(path, "holds no samples", kind="empty")
    if not np.isfinite(mono).all():
        raise AudioError(path, "holds samples that are not finite numbers", kind="corrupt")
    resampled: Samples = mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE)
    return resampled


def _decode_with_av(path: Path, av: Any) -> tuple[Samples, int]:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        to_float = av.AudioResampler(format="fltp")
        frames = [part for frame in container.decode(stream) for part in to_float.resample(frame)]
        return np.concatenate([frame.to_ndarray() for frame in frames], axis=1).T, int(stream.rate)
