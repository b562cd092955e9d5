"""The two decoders, libsndfile and FFmpeg, behind one function each; every failure becomes an AudioError."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from oblong.errors import AudioError, MissingExtraError

SOUNDFILE_SUFFIXES: Final = (".wav", ".flac", ".ogg", ".oga", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64")
SOUNDFILE_MAGIC: Final = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", b".snd", b"caff")
G722: Final = ".g722"
G722_BYTES_PER_SECOND: Final = 8000  # 64 kbit/s; the format has no header
CORRUPT: Final = "corrupt"
MISSING: Final = "missing"
# libsndfile's log when the data chunk of a WAV claims more bytes than the file has.
CUT_OFF: Final = re.compile(r"^\s*data\s*:\s*(\d+)\s*\(should be (\d+)\)", re.MULTILINE)
UNKNOWN_SIZES: Final = (0, 0x7FFFFF00)  # what streaming writers put there: nothing, or close to 2 or 4 GiB


@dataclass(frozen=True, slots=True)
class Decoded:
    """Sound as it was in the file: samples (num_frames, num_channels) float32, rate in Hz."""

    samples: NDArray[np.float32]
    rate: int


def decode(file: Path | io.BytesIO, name: Path) -> Decoded:
    """Decode a file, or its bytes; `name` is for messages and its suffix.

    Raises:
        AudioError: neither decoder can read it, or it is cut off.
        MissingExtraError: the decoder is not installed.
    """
    if isinstance(file, Path) and not _is_utf8(file):
        file = io.BytesIO(_read_bytes(file))
    if _is_for_soundfile(file, name):
        return _decode_with_soundfile(file, name)
    return _decode_with_ffmpeg(file, name)


def measure(path: Path) -> float | None:
    """Seconds by the header; None where only decoding tells."""
    if path.suffix.lower() == G722:
        return path.stat().st_size / G722_BYTES_PER_SECOND
    if not _is_for_soundfile(path, path) or not _is_utf8(path):
        return None
    soundfile = _import_soundfile()
    try:
        return float(soundfile.info(str(path)).duration)
    except soundfile.LibsndfileError as error:
        raise AudioError(path, f"cannot be decoded: {error.error_string}", kind=CORRUPT) from error


def _is_for_soundfile(file: Path | io.BytesIO, name: Path) -> bool:
    if name.suffix.lower() == G722:
        return False
    return name.suffix.lower() in SOUNDFILE_SUFFIXES or _read_magic(file, name).startswith(SOUNDFILE_MAGIC)


def _is_utf8(path: Path) -> bool:
    """Whether the decoders, which take names as text, can open it by its name; old disks have others."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AudioError(path, f"cannot be read: {error.strerror}", kind=MISSING) from error


def _read_magic(file: Path | io.BytesIO, name: Path) -> bytes:
    if isinstance(file, io.BytesIO):
        return file.getvalue()[:4]
    try:
        with file.open("rb") as stream:
            return stream.read(4)
    except OSError as error:
        raise AudioError(name, f"cannot be read: {error.strerror}", kind=MISSING) from error


def _decode_with_soundfile(file: Path | io.BytesIO, name: Path) -> Decoded:
    soundfile = _import_soundfile()
    try:
        with soundfile.SoundFile(file if isinstance(file, io.BytesIO) else str(file)) as sound:
            num_frames, rate, log = sound.frames, sound.samplerate, sound.extra_info
            samples: NDArray[np.float32] = sound.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(name, f"cannot be decoded: {error.error_string}", kind=CORRUPT) from error
    _require_whole(len(samples), num_frames, log, name)
    return Decoded(samples, rate)


def _require_whole(num_read: int, num_frames: int, log: str, name: Path) -> None:
    """Libsndfile reads what is there of a file that was cut off, and mentions it in its log at best."""
    if num_read < num_frames:
        raise AudioError(name, f"is cut off: {num_read} of {num_frames} samples", kind=CORRUPT)
    match = CUT_OFF.search(log)
    if match is None:
        return
    claimed, present = int(match[1]), int(match[2])
    if claimed > present and UNKNOWN_SIZES[0] < claimed < UNKNOWN_SIZES[1]:
        raise AudioError(name, f"is cut off: {present} of {claimed} bytes", kind=CORRUPT)


def _decode_with_ffmpeg(file: Path | io.BytesIO, name: Path) -> Decoded:
    av = _import_av()
    source = file if isinstance(file, io.BytesIO) else str(file)
    try:
        with av.open(source, format="g722" if name.suffix.lower() == G722 else None) as container:
            if not container.streams.audio:
                raise AudioError(name, "holds no sound", kind=CORRUPT)
            return _collect(container, av.AudioResampler(format="fltp"))
    except (av.FFmpegError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(name, f"cannot be decoded: {reason}", kind=CORRUPT) from error


def _collect(container: Any, to_float: Any) -> Decoded:
    """All frames of the first sound track; the converter only changes the number format."""
    rate, blocks = 0, []
    for frame in container.decode(audio=0):
        rate = frame.sample_rate
        blocks += [part.to_ndarray() for part in to_float.resample(frame)]
    if rate:
        blocks += [part.to_ndarray() for part in to_float.resample(None)]
    joined = np.concatenate(blocks, axis=1) if blocks else np.zeros((1, 0), np.float32)
    return Decoded(np.ascontiguousarray(joined.T, dtype=np.float32), rate or 1)


def _import_soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: the wheel without its libsndfile
        raise MissingExtraError("decoding sound files", "speech") from None
    return soundfile


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        raise MissingExtraError("decoding MP3, G.722 and other compressed sound", "speech") from None
    return av
