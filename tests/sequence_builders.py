"""Recipes of short task sequences on a tiny model, and Comparisons of sequences with known losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oblong.comparing.contrasts import compute_changes
from oblong.comparing.relearning_changes import compare_relearning
from oblong.comparing.sequences import describe_sequence
from oblong.records import (
    ArmRun,
    Comparison,
    DocumentScore,
    Evaluation,
    RelearnedScores,
    RelearningProbe,
    TaskRun,
)
from tests.report_builders import NEW_DOMAIN, make_comparison, make_evaluation
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


BASE: Mapping[str, float] = {NEW_DOMAIN: 3.3, "office": 2.9, "python": 2.4, "english": 3.8}
NAMES = (NEW_DOMAIN, "office", "python")
WAYS: Mapping[str, Sequence[Sequence[float]]] = {
    "plain": ((2.7, 2.95, 2.42, 3.82), (2.9, 2.3, 2.41, 3.85), (3.0, 2.5, 2.0, 3.9)),
    "replay": ((2.75, 2.94, 2.41, 3.8), (2.8, 2.35, 2.4, 3.81), (2.8, 2.4, 2.1, 3.82)),
    "packnet": ((2.9, 2.92, 2.4, 3.81), (2.95, 2.5, 2.4, 3.82), (3.0, 2.6, 2.2, 3.85)),
}
TOLD: Mapping[str, Sequence[Sequence[float]]] = {"packnet": ((2.85,), (2.85, 2.45), (2.85, 2.45, 2.2))}
SPREAD = 0.03


def make_sequence(*, seeds: Sequence[int] = (0, 1, 2), num_documents: int = 8, broken: str | None = None) -> Comparison:
    """Three arms through three tasks with the losses of WAYS; documents and seeds differ a little, each its own way.

    Args:
        seeds: of every arm.
        num_documents: of every text.
        broken: an arm whose first seed diverged on the second task.
    """
    ends = {arm: dict(zip(BASE, rows[-1], strict=True)) for arm, rows in WAYS.items()}
    changes = {arm: {name: end[name] - BASE[name] for name in BASE} for arm, end in ends.items()}
    comparison = make_comparison(changes, seeds=seeds, control="plain", num_documents=num_documents)
    base = _make_evaluation("base", BASE, 1, num_documents)
    first = broken, seeds[0]
    runs = [_add_tasks(run, num_documents, is_broken=(run.arm, run.seed) == first) for run in comparison.runs]
    probed = tuple(run.model_copy(update={"relearning": _probe(run, base)}) for run in runs)
    return comparison.model_copy(
        update={
            "base": base,
            "runs": probed,
            "changes": compute_changes(base, probed, control="plain"),
            "sequence": describe_sequence(base, probed, NAMES, control="plain"),
            "relearning": compare_relearning(base, probed, control="plain"),
        }
    )


def _add_tasks(run: ArmRun, num_documents: int, *, is_broken: bool) -> ArmRun:
    rows = WAYS[run.arm][: 1 if is_broken else None]
    states = [_make_evaluation(run.arm, dict(zip(BASE, row, strict=True)), run.seed, num_documents) for row in rows]
    told = [
        _make_evaluation(run.arm, dict(zip(NAMES, row, strict=False)), run.seed, num_documents)
        for row in TOLD.get(run.arm, ())
    ]
    tasks = tuple(
        TaskRun(task=NAMES[place], run=run.run, evaluation=state, told=told[place] if told else None)
        for place, state in enumerate(states)
    )
    stopped = "task 2 of 3, office: the loss or gradient of step 4 was not a finite number" if is_broken else None
    return run.model_copy(update={"tasks": tasks, "evaluation": states[-1], "stopped": stopped})


def _probe(run: ArmRun, base: Evaluation) -> RelearningProbe:
    """After relearning, a fifth of what was forgotten of english remains."""
    tuned, before = run.evaluation.corpora["english"], base.corpora["english"]
    remaining = [
        one.model_copy(update={"nll": 0.9 * other.nll + 0.2 * (one.nll - other.nll)})
        for one, other in zip(tuned.documents, before.documents, strict=True)
    ]
    relearned = [score.model_copy(update={"nll": 0.9 * score.nll}) for score in before.documents]
    scores = RelearnedScores(
        base=before.model_copy(update={"documents": tuple(relearned)}),
        tuned=tuned.model_copy(update={"documents": tuple(remaining)}),
    )
    return RelearningProbe(steps=10, learning_rate=2e-4, data=before.data, texts={"english": scores})


def _make_evaluation(name: str, losses: Mapping[str, float], seed: int, num_documents: int) -> Evaluation:
    """Documents that differ from each other, and a little more or less from seed to seed."""
    evaluation = make_evaluation(name, losses, num_documents=num_documents, drift=name != "base")
    corpora = {
        corpus: score.model_copy(
            update={"new_domain": corpus in NAMES, "documents": _vary(name, seed, score.documents)}
        )
        for corpus, score in evaluation.corpora.items()
    }
    return evaluation.model_copy(update={"corpora": corpora})


def _vary(name: str, seed: int, documents: Sequence[DocumentScore]) -> tuple[DocumentScore, ...]:
    """Factors whose mean is 1 over documents, and 1 over three seeds."""
    wave = [SPREAD * math.sin(2 * math.pi * (place + len(name)) / len(documents)) for place in range(len(documents))]
    shift = 0.0 if name == "base" else 0.002 * (seed - 1)
    return tuple(
        score.model_copy(update={"nll": score.nll * (1 + part + shift)})
        for part, score in zip(wave, documents, strict=True)
    )
