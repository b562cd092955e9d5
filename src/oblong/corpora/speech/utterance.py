"""One utterance: a sound file and what is said in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

HUMAN: Final = "human"
SYNTHETIC: Final = "synthetic"
KINDS: Final = (HUMAN, SYNTHETIC)


@dataclass(frozen=True, slots=True)
class Utterance:
    """A line of a manifest.

    Attributes:
        audio: the sound file; relative to the manifest in the file, absolute or relative to the working directory here.
        text: the transcript; empty where nothing is said.
        lang: ISO 639 code in small letters, such as `en` or `de`.
        duration: seconds; None where nobody measured it.
        speaker: who speaks, or which synthetic voice.
        source: where the sound comes from, such as a package with its version.
        licence: of the sound and the text.
        split: `train` or `test`, where the manifest says so.
        kind: `human` or `synthetic`, where the manifest says so.
    """

    audio: Path
    text: str
    lang: str
    duration: float | None = None
    speaker: str = ""
    source: str = ""
    licence: str = ""
    split: str = ""
    kind: str = ""
