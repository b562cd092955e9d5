"""Speech synthesisers: SVOX Pico from the package index; flite and espeak-ng as installed, or from Debian packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from oblong.corpora.speech.audio import SAMPLE_RATE, Samples, load_audio, resample
from oblong.corpora.speech.building.deb_archive import unpack
from oblong.corpora.speech.building.packages import PackageStore, Report
from oblong.corpora.speech.building.voices import ESPEAK, FLITE, PICO, Voice
from oblong.errors import AudioError, MissingExtraError, SelectionError

WORDS_PER_MINUTE: Final = 160  # of espeak-ng at speed 1; its own 175 is hard to follow
MIDDLE_PITCH: Final = 50  # of 0 to 99
TIMEOUT_SECONDS: Final = 60
DEBIAN_PACKAGES: Final[Mapping[str, str]] = {FLITE: "flite", ESPEAK: "espeak-ng"}
PROGRAMS: Final = DEBIAN_PACKAGES
ENGINE_LICENCES: Final[Mapping[str, str]] = {
    PICO: "Apache-2.0 (SVOX Pico)",
    FLITE: "BSD-like (flite)",
    ESPEAK: "GPL-3 tool (espeak-ng)",
}


class Engine(Protocol):
    """Turns text into sound."""

    def speak(self, text: str, base: str, speed: float, pitch: float) -> Samples:
        """Say `text` in the engine's voice `base`; speed and pitch are factors.

        Returns:
            (num_samples,) float32 at 16 kHz.

        Raises:
            AudioError: the engine failed.
        """
        ...


def speak(engine: Engine, voice: Voice, text: str, speed: float, pitch: float) -> Samples:
    """Say a text with a voice: the engine's, through the voice's vocal tract; speed and pitch are as asked.

    Raises:
        AudioError: the engine failed or said nothing.
    """
    said = engine.speak(text, voice.base, speed / voice.tract, pitch / voice.tract)
    if said.size == 0:
        raise AudioError(voice.speaker, f"said nothing for {text!r}", kind="not spoken")
    return resample(said, SAMPLE_RATE * voice.tract)


class PicoEngine:
    """SVOX Pico through py-nanotts.

    Raises:
        MissingExtraError: py-nanotts is not installed.
    """

    def __init__(self) -> None:
        try:
            from py_nanotts import NanoTTS
        except ImportError:
            raise MissingExtraError("synthesising speech with SVOX Pico (or choose other engines)", "tts") from None
        self._synthesiser: Any = NanoTTS()

    def speak(self, text: str, base: str, speed: float, pitch: float) -> Samples:
        """See `Engine`; said twice, as the noise in Pico's sounds depends on what was said before."""
        for _ in range(2):
            pcm = self._synthesiser.speak(text, voice=base, speed=speed, pitch=pitch)
        return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)


@dataclass(frozen=True, slots=True)
class Program:
    """An executable and the environment that finds its libraries and data."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, arguments: Sequence[str], text: str) -> Samples:
        """Run it with `text` on standard input and a WAV file to write as `{wav}` among the arguments."""
        with tempfile.TemporaryDirectory() as folder:
            wav, script = Path(folder) / "said.wav", Path(folder) / "text.txt"
            script.write_text(f"{text}\n", encoding="utf-8")
            command = [str(self.path), *(part.format(wav=wav, text=script) for part in arguments)]
            environment = {**os.environ, **self.environment}
            try:
                subprocess.run(command, env=environment, capture_output=True, check=True, timeout=TIMEOUT_SECONDS)
            except subprocess.CalledProcessError as error:
                reason = error.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
                raise AudioError(self.path, f"failed on {text!r}: {reason[0]}", kind="not spoken") from error
            except (OSError, subprocess.TimeoutExpired) as error:
                raise AudioError(self.path, f"failed on {text!r}: {error}", kind="not spoken") from error
            return load_audio(wav)


@dataclass(frozen=True, slots=True)
class FliteEngine:
    """CMU flite; its pitch cannot be set for all voices and stays."""

    program: Program

    def speak(self, text: str, base: str, speed: float, pitch: float) -> Samples:
        """See `Engine`."""
        stretch = f"duration_stretch={1 / speed:.4f}"
        return self.program.run(["-voice", base, "--setf", stretch, "-f", "{text}", "-o", "{wav}"], text)


@dataclass(frozen=True, slots=True)
class EspeakEngine:
    """espeak-ng; `base` is its voice with a variant, such as `de+f2`."""

    program: Program

    def speak(self, text: str, base: str, speed: float, pitch: float) -> Samples:
        """See `Engine`."""
        words, height = str(round(WORDS_PER_MINUTE * speed)), str(min(99, round(MIDDLE_PITCH * pitch)))
        return self.program.run(["-v", base, "-s", words, "-p", height, "-f", "{text}", "-w", "{wav}"], text)


def open_engine(name: str, store: PackageStore, folder: Path, report: Report) -> Engine:
    """Make an engine ready: as installed, else unpacked from Debian packages below `folder`.

    Raises:
        MissingExtraError: py-nanotts is not installed.
        MissingPackageError: the program is not installed, and its package cannot be had.
        SelectionError: no such engine.
    """
    if name == PICO:
        return PicoEngine()
    if name not in PROGRAMS:
        raise SelectionError(f"there is no speech engine {name!r}: choose among {', '.join((PICO, *PROGRAMS))}")
    program = find_program(PROGRAMS[name], store, folder, report)
    return FliteEngine(program) if name == FLITE else EspeakEngine(program)


def find_program(name: str, store: PackageStore, folder: Path, report: Report) -> Program:
    """An installed program, or one unpacked from its Debian package and the libraries that are not installed.

    Raises:
        MissingPackageError: it is not installed, and the package cannot be had.
    """
    if (installed := shutil.which(name)) is not None:
        return Program(Path(installed))
    root = folder / name
    if not (root / "complete").is_file():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for package in store.obtain(store.resolve([name]), report).values():
            unpack(package.file, root)
        (root / "complete").touch()
    return Program(root / "usr/bin" / name, _describe_environment(root))


def _describe_environment(root: Path) -> dict[str, str]:
    libraries = sorted({file.parent for file in root.rglob("*.so*")})
    data = next(iter(sorted(root.rglob("espeak-ng-data"))), None)
    paths = [*map(str, libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {"LD_LIBRARY_PATH": ":".join(path for path in paths if path)}
    return environment if data is None else {**environment, "ESPEAK_DATA_PATH": str(data.parent)}
