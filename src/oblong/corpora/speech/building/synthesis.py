"""Synthesised speech: which sentence is said by which voice, how fast and how high, is drawn from the seed alone.

A clip is called after everything that made it, so a longer build keeps the clips of a shorter one, and a killed one
goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np

from oblong.corpora.speech.audio import SAMPLE_RATE, Samples
from oblong.corpora.speech.building.clips import store_clip
from oblong.corpora.speech.building.context import BuildContext
from oblong.corpora.speech.building.engines import ENGINE_LICENCES, Engine, speak
from oblong.corpora.speech.building.sentences import DIALOGUE_PACKAGE, HELP_PACKAGES, Sentence, collect_sentences
from oblong.corpora.speech.building.splits import TEST, TRAIN
from oblong.corpora.speech.building.voices import Voice, choose_voices
from oblong.corpora.speech.utterance import SYNTHETIC, Utterance
from oblong.errors import AudioError, DataError, SelectionError

SPEED_RANGE: Final = (0.85, 1.2)
PITCH_RANGE: Final = (0.85, 1.2)
LEVEL_RANGE_DB: Final = (-15.0, -1.0)  # of the peak, relative to full scale
# A voice that reads faster or slower than this has stumbled over the text; 15 letters a second is usual.
CHARACTERS_PER_SECOND: Final = (5.0, 30.0)
MAX_FAILURES: Final = 50
# Of a clip, 1 to 12 seconds. Whisper's encoder works on 30 s whatever the length, so very short clips are wasteful.
PASSAGE_CHARACTERS: Final = (20, 160)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPlan:
    """One clip before it is made."""

    passage: Sentence
    voice: Voice
    speed: float
    pitch: float
    level_db: float

    @property
    def key(self) -> str:
        """Twenty hexadecimal digits of the SHA-256 of all that makes the clip."""
        parts = (self.voice.speaker, self.passage.text, self.speed, self.pitch, self.level_db)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def list_text_packages(lang: str, *, quick: bool) -> tuple[str, ...]:
    """Where the sentences come from; the quick build does without the 70 MB of the game."""
    return (HELP_PACKAGES[lang],) if quick else (HELP_PACKAGES[lang], DIALOGUE_PACKAGE)


def build_synthetic(context: BuildContext, lang: str) -> list[Utterance]:
    """Synthetic speech in one language: training and test have no voice and no sentence in common.

    Raises:
        DataError: the packages hold no sentences, or the voices fail again and again.
        SelectionError: the chosen engines have no voice for one of the two.
    """
    return [
        *_build_side(context, lang, TRAIN, context.train_seconds),
        *_build_side(context, lang, TEST, context.test_seconds),
    ]


def iter_plans(sentences: Sequence[Sentence], voices: Sequence[Voice], seed: int) -> Iterator[ClipPlan]:
    """Clips without end: the sentences in order, again and again, each time by another draw of voice and manner."""
    for number, passage in enumerate(iter_passages(sentences, seed)):
        rng = random.Random(f"{seed}:{voices[0].lang}:{voices[0].split}:{number}")
        (voice,) = rng.choices(voices, weights=[item.weight for item in voices])
        speed, pitch = (round(rng.uniform(*limits), 3) for limits in (SPEED_RANGE, PITCH_RANGE))
        level = round(rng.uniform(*LEVEL_RANGE_DB), 1)
        yield ClipPlan(passage=passage, voice=voice, speed=speed, pitch=pitch, level_db=level)


def iter_passages(sentences: Sequence[Sentence], seed: int) -> Iterator[Sentence]:
    """One sentence or several in a row, up to a length that is drawn anew each time, without end."""
    rng = random.Random(f"{seed}:passages")
    shortest, longest = PASSAGE_CHARACTERS
    target, pending = rng.uniform(shortest, longest), list[Sentence]()
    for sentence in cycle(sentences):
        num_characters = sum(len(item.text) + 1 for item in pending)
        if pending and (num_characters >= target or num_characters + len(sentence.text) > longest):
            yield _join(pending)
            target, pending = rng.uniform(shortest, longest), []
        pending.append(sentence)


def _join(sentences: Sequence[Sentence]) -> Sentence:
    licences = dict.fromkeys(sentence.licence for sentence in sentences)
    return Sentence(" ".join(sentence.text for sentence in sentences), " and ".join(licences))


def _build_side(context: BuildContext, lang: str, split: str, target_seconds: float) -> list[Utterance]:
    voices = choose_voices(lang, split, tuple(context.engines))
    if not voices:
        raise SelectionError(f"the engines {', '.join(context.engines)} have no {split} voice for {lang!r}: add pico")
    sentences = collect_sentences(lang, split, context.packages.values(), context.seed)
    if not sentences:
        raise DataError(f"the packages {', '.join(map(str, context.packages.values()))} hold no {lang!r} sentences")
    name = f"synthetic-{lang}"
    utterances: list[Utterance] = []
    seconds, num_failures = 0.0, 0
    for plan in iter_plans(sentences, voices, context.seed):
        if seconds >= target_seconds:
            break
        context.report(f"{name}-{split}", int(seconds), int(target_seconds))
        path = context.folder / "clips" / f"{name}-{split}" / f"{plan.key}.flac"
        try:
            duration = store_clip(path, partial(_make_clip, plan, context.engines[plan.voice.engine]))
        except AudioError as error:
            context.skips.add(error.kind, str(error))
            num_failures += 1
            if num_failures > max(MAX_FAILURES, len(utterances)):
                raise DataError(f"{name}: the voices fail too often: {context.skips.describe()}") from error
            continue
        seconds += duration
        utterances.append(_describe(plan, path, duration))
    return utterances


def _describe(plan: ClipPlan, path: Path, duration: float) -> Utterance:
    return Utterance(
        audio=path,
        text=plan.passage.text,
        lang=plan.voice.lang,
        duration=duration,
        speaker=plan.voice.speaker,
        source=f"{plan.voice.engine} {plan.voice.base} speed {plan.speed} pitch {plan.pitch}",
        licence=f"voice {ENGINE_LICENCES[plan.voice.engine]}; text {plan.passage.licence}",
        split=plan.voice.split,
        kind=SYNTHETIC,
    )


def _make_clip(plan: ClipPlan, engine: Engine) -> Samples:
    samples = speak(engine, plan.voice, plan.passage.text, plan.speed, plan.pitch)
    peak = float(np.abs(samples).max())
    rate = len(plan.passage.text) * SAMPLE_RATE / samples.size
    slowest, fastest = CHARACTERS_PER_SECOND
    if peak == 0 or not slowest <= rate <= fastest:
        what = "is silent" if peak == 0 else f"reads {rate:.0f} characters a second"
        raise AudioError(plan.voice.speaker, f"{what}: {plan.passage.text!r}", kind="badly spoken")
    scaled: Samples = samples * np.float32(10 ** (plan.level_db / 20) / peak)
    return scaled
