"""Clips on the disk: 16 kHz mono FLAC, written whole or not at all, and not made again when they are there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from oblong.corpora.speech.audio import SAMPLE_RATE, Samples, measure_seconds
from oblong.corpora.speech.manifest import DIGITS
from oblong.errors import AudioError, MissingExtraError
from oblong.records.base import explain_write_errors


def store_clip(path: Path, make: Callable[[], Samples]) -> float:
    """Make a clip where it is not there yet.

    Args:
        path: of the `.flac` file.
        make: returns (num_samples,) float32 at 16 kHz; called only where the file is missing or broken.

    Returns:
        Its duration in seconds, as manifests have it.

    Raises:
        AudioError: whatever `make` raises.
        OutputWriteError: the disk is full or not writable.
    """
    try:
        return round(measure_seconds(path), DIGITS)
    except AudioError:
        samples = make()
    write_flac(path, samples)
    return round(samples.size / SAMPLE_RATE, DIGITS)


def write_flac(path: Path, samples: Samples) -> None:
    """Write 16-bit FLAC at 16 kHz; what exceeds full scale is clipped.

    Raises:
        OutputWriteError: the disk is full or not writable.
    """
    soundfile = _import_soundfile()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                soundfile.write(file, np.clip(samples, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _import_soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError):
        raise MissingExtraError("writing sound files", "speech") from None
    return soundfile
