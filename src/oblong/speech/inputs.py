"""What a user points at: folders of audio files, and samples on standard input."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Final

from oblong.errors import DataError

AUDIO_SUFFIXES: Final = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".g722", ".aif", ".aiff", ".webm", ".mp4"),
)


def list_audio_files(folder: Path) -> list[Path]:
    """Audio files below a folder, sorted, hidden ones left out.

    Raises:
        DataError: there is none.
    """
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        raise DataError(f"{folder}: holds no audio file ({', '.join(AUDIO_SUFFIXES)})")
    return found


def wrap_raw(data: bytes, rate: int) -> bytes:
    """Put a WAV header before raw mono samples of 16 bits, little-endian; half a sample at the end is dropped."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(data[: len(data) // 2 * 2])
    return buffer.getvalue()
