"""Synthetic voices: which one speaks in training, and which only in the test.

A voice is an engine's voice and a length of the vocal tract. Playing speech 8 % faster raises its formants and its
pitch as a shorter vocal tract does; the engine's speed is lowered by as much, so that the tempo stays. Speech
recognisers train on such copies as on other speakers (Jaitly and Hinton 2013; Kaldi's speed perturbation).

In English the voices of the test are other speakers altogether. German has one recorded speaker among the free voices
(SVOX Pico's); its test voices are vocal tracts outside the range of the training voices, and a variant of espeak-ng's
formant synthesiser that does not occur in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from oblong.corpora.speech.building.splits import TEST, TRAIN

PICO: Final = "pico"
FLITE: Final = "flite"
ESPEAK: Final = "espeak"
ENGINES: Final = (PICO, FLITE, ESPEAK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A synthetic speaker.

    Attributes:
        engine: `pico`, `flite` or `espeak`.
        base: the engine's own name of the voice.
        lang: which language it speaks.
        split: `train` or `test`; no voice is in both.
        tract: how much shorter than the recorded speaker's the vocal tract is; 1 is as recorded.
        weight: share of the clips, relative to the other voices of its language and split.
    """

    engine: str
    base: str
    lang: str
    split: str
    tract: float = 1.0
    weight: float = 1.0

    @property
    def speaker(self) -> str:
        """Name in manifests."""
        suffix = "" if self.tract == 1.0 else f"-tract{self.tract:.2f}"
        return f"{self.engine}-{self.base}{suffix}"


def _make(engine: str, base: str, lang: str, split: str, *tracts: float, weight: float = 1.0) -> tuple[Voice, ...]:
    share = weight / len(tracts)
    return tuple(Voice(engine=engine, base=base, lang=lang, split=split, tract=tract, weight=share) for tract in tracts)


VOICES: Final[tuple[Voice, ...]] = (
    *_make(PICO, "en-US", "en", TRAIN, 0.88, 0.94, 1.0, 1.06, 1.12, weight=5),
    *_make(FLITE, "rms", "en", TRAIN, 0.95, 1.0, 1.1, weight=3),
    *_make(FLITE, "awb", "en", TRAIN, 0.95, 1.0, 1.1, weight=2),
    *_make(FLITE, "kal16", "en", TRAIN, 1.0, weight=0.5),
    *_make(ESPEAK, "en-us+m3", "en", TRAIN, 1.0, weight=0.5),
    *_make(ESPEAK, "en-us+f2", "en", TRAIN, 1.0, weight=0.5),
    *_make(PICO, "en-GB", "en", TEST, 1.0),
    *_make(FLITE, "slt", "en", TEST, 1.0),
    *_make(PICO, "de-DE", "de", TRAIN, 0.90, 0.95, 1.0, 1.05, 1.10, weight=10),
    *_make(ESPEAK, "de+m3", "de", TRAIN, 1.0, weight=1),
    *_make(ESPEAK, "de+f2", "de", TRAIN, 1.0, weight=1),
    *_make(PICO, "de-DE", "de", TEST, 0.85, 1.15, weight=4),
    *_make(ESPEAK, "de+f5", "de", TEST, 1.0, weight=1),
)


def choose_voices(lang: str, split: str, engines: tuple[str, ...]) -> list[Voice]:
    """The voices of a language on one side of the wall that these engines have."""
    return [voice for voice in VOICES if voice.lang == lang and voice.split == split and voice.engine in engines]
