"""A tiny speech training: tones with letters to learn, in a few seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oblong.speech.training import SpeechTrainRecipe
from tests.speech_builders import make_tone, save_chatty_llama, save_tiny_whisper
from tests.transcription_builders import write_manifest, write_sound
from tests.tuning_builders import make_plan

WORDS = ("ab", "cd", "ef", "gh", "ik", "lm", "no", "pq")


def write_speech(folder: Path, *, words: Sequence[str] = WORDS, lang: str = "en") -> Path:
    """One tone for each word, and their manifest."""
    rows = []
    for index, word in enumerate(words):
        path = write_sound(folder / f"{index}.wav", make_tone(index, seconds=0.3 + 0.05 * index))
        rows.append({"audio": path.name, "text": word, "lang": lang})
    return write_manifest(folder / "speech.jsonl", rows)


def make_data(folder: Path) -> Path:
    """Encoder, language model, a Plan of it, speech and a text, below `folder`."""
    save_tiny_whisper(folder / "whisper")
    # Wide enough weights that what stands in the prompt decides what comes out, as in a trained model.
    save_chatty_llama(folder / "llama", initializer_range=0.2)
    make_plan(folder / "llama").write(folder / "plan.yaml")
    write_speech(folder)
    (folder / "text.txt").write_text("It is a truth universally acknowledged. " * 4, encoding="utf-8")
    return folder


def make_recipe(folder: Path, **changes: Any) -> SpeechTrainRecipe:
    """A recipe on `make_data`; keyword arguments replace whole fields."""
    data: dict[str, Any] = {
        "encoder": str(folder / "whisper"),
        "language_model": str(folder / "llama"),
        "output": str(folder / "run"),
        "data": {"train": str(folder / "speech.jsonl"), "evaluate": {"tones": str(folder / "speech.jsonl")}},
        "retention": {"prose": str(folder / "text.txt")},
        "adaptor": {"kind": "linear"},
        "align": {"max_steps": 4, "gate": 0.01, "learning_rate": 1e-2},
        "adapt": {"arm": {"plan": str(folder / "plan.yaml")}, "steps": 6, "learning_rate": 1e-3},
        "batch": {"max_seconds": 4.0, "max_utterances": 4, "num_buckets": 1},
        "evaluate_every": 3,
        "probe_utterances": 8,
        "save_every": 2,
        "log_every": 2,
        "dtype": "float32",
        "cache": False,
        "threads": 1,
    }
    return SpeechTrainRecipe.model_validate(data | changes)
