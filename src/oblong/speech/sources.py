"""Where utterances and samples come from: the one place that this package takes them from."""

from __future__ import annotations

from oblong.corpora.speech import SAMPLE_RATE, Utterance, load_audio, read_manifest
from oblong.corpora.speech.audio import Samples

__all__ = ["SAMPLE_RATE", "Samples", "Utterance", "load_audio", "read_manifest"]
