"""Sound files, manifests, Debian packages and a speech engine for tests; all tiny, all made here."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from oblong.corpora.speech.audio import Samples
from oblong.errors import AudioError

RATE = 16_000


def make_tone(seconds: float, rate: int = RATE, hertz: float = 440.0, level: float = 0.5) -> NDArray[np.float32]:
    """(seconds * rate,) float32."""
    times = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def write_sound(path: Path, samples: NDArray[np.float32], rate: int = RATE, **options: Any) -> Path:
    """Write a sound file of the format of its suffix, through libsndfile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def write_compressed(path: Path, samples: NDArray[np.float32], codec: str, rate: int = RATE) -> Path:
    """Write a mono sound file through FFmpeg: codec `mp3` or `g722`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=codec) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        data = np.round(samples * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(data, format="s16", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate)
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def encode_sound(folder: Path, name: str, seconds: float = 0.5) -> bytes:
    """The bytes of a short sound file: `.wav`, `.flac`, `.ogg` or `.g722`."""
    path = folder / "encoded" / name
    tone = make_tone(seconds)
    written = write_compressed(path, tone, "g722") if path.suffix == ".g722" else write_sound(path, tone)
    return written.read_bytes()


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """JSON Lines; a string goes in as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_deb(
    folder: Path, name: str, files: Mapping[str, bytes], *, version: str = "1.0-1", depends: str = "libc6 (>= 2.34)"
) -> Path:
    """A Debian package with these files, and a copyright file."""
    control = f"Package: {name}\nDepends: {depends}\nDescription: a test\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    deb = folder / f"{name}_{version}_all.deb"
    contents = {f"usr/share/doc/{name}/copyright": b"do what you like\n", **files}
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": _make_tar({"control": control}),
        "data.tar.xz": _make_tar(contents),
    }
    deb.write_bytes(b"!<arch>\n" + b"".join(_ar_member(part, content) for part, content in parts.items()))
    return deb


def _make_tar(contents: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for path, content in contents.items():
            member = tarfile.TarInfo(f"./{path}")
            member.size = len(content)
            member.mode = 0o755
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def _ar_member(name: str, content: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


class ToneEngine:
    """Says every text as a tone of 70 ms per letter; counts what it said, and fails where it is told to."""

    def __init__(self, fail_on: str = "nothing") -> None:
        self.fail_on = fail_on
        self.said: list[tuple[str, str, float, float]] = []

    def speak(self, text: str, base: str, speed: float, pitch: float) -> Samples:
        self.said.append((text, base, speed, pitch))
        if self.fail_on in text:
            raise AudioError("tone", f"cannot say {text!r}", kind="not spoken")
        return make_tone(0.07 * len(text) / speed, hertz=200 * pitch)
