"""Recipes of short task sequences on a tiny model, and Comparisons of sequences with known losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tuning_builders import TEXTS, save_tiny_llama, write_text

DIGITS = tuple(f"{index} times {index} is {index * index}, and so on. " * 4 for index in range(12))
PLAIN: dict[str, Any] = {"criterion": "random", "redraw": False}


def make_sequence_data(folder: Path, **changes: Any) -> dict[str, Any]:
    """Parsed data of a comparison: two arms, one seed, two tasks of a few steps; its texts and model are written."""
    if not (folder / "model").exists():
        save_tiny_llama(folder / "model")
        write_text(folder / "loud.jsonl", [text.upper() for text in TEXTS])
        write_text(folder / "digits.jsonl", DIGITS)
        write_text(folder / "old.jsonl", [text[::-1] for text in TEXTS])
    data: dict[str, Any] = {
        "name": "tiny sequence",
        "model": str(folder / "model"),
        "output": str(folder / "out"),
        "budget": "3000p",
        "arms": {"plain": PLAIN, "ewc": {**PLAIN, "method": {"name": "ewc", "strength": 1.0}}},
        "control": "plain",
        "tasks": [make_task(folder, "loud"), make_task(folder, "digits", steps=3)],
        "train": {
            "anchor": {"sources": str(folder / "old.jsonl"), "blocks": 4},
            "steps": 4,
            "sequence_length": 32,
            "batch_size": 2,
            "learning_rate": 0.01,
            "save_every": 1,
        },
        "evaluate": {"old": {"data": str(folder / "old.jsonl"), "documents": 3, "characters": 90}},
        "window": 64,
        "stride": 64,
        "divergence": False,
        "workers": 1,
    }
    return data | changes


def make_task(folder: Path, name: str, **fields: Any) -> dict[str, Any]:
    """A task whose first three documents are held out."""
    file = str(folder / f"{name}.jsonl")
    held_out = {"data": file, "documents": 3, "characters": 90}
    return {"name": name, "data": {"source": file, "skip": 3}, "evaluate": held_out, **fields}
