"""Short stages B of a tiny speech training, with and without a method against forgetting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oblong.methods import METHODS
from oblong.methods.registry import InSpeech
from oblong.records import SpeechRun
from oblong.speech.training import SpeechProgress, SpeechTrainRecipe, train_speech
from oblong.speech.training.processes import ALONE, Processes
from oblong.speech.training.stage import Workbench
from oblong.speech.training.timing import build_bench
from tests.training_builders import make_data, make_recipe

ANCHOR = {"sources": "self_generated", "blocks": 4}


def make_plain(folder: Path) -> Path:
    """Data, the adaptor of a finished stage A, and a plain stage B from it, below `folder`."""
    make_data(folder)
    train_speech(make_short(folder, "plain", align={"max_steps": 2, "gate": None}))
    return folder


def make_short(folder: Path, name: str, *, align: dict[str, Any], **adapt: Any) -> SpeechTrainRecipe:
    """Four steps of stage B, evaluated before and after on two utterances."""
    speech = str(folder / "speech.jsonl")
    return make_recipe(
        folder,
        align=align,
        adapt={"arm": {"plan": str(folder / "plan.yaml")}, "steps": 4, "learning_rate": 1e-3} | adapt,
        data={"train": speech, "evaluate": {"tones": speech}, "limits": {"evaluate": 2}},
        probe_utterances=2,
        evaluate_every=4,
        output=str(folder / name),
    )


def make_held(folder: Path, method: dict[str, Any], name: str, **adapt: Any) -> SpeechTrainRecipe:
    """A stage B with a method, from the same adaptor as the plain run; with old text where the method can take it."""
    spec = METHODS[method["name"]]
    anchor = ANCHOR if spec.uses_anchor or spec.in_speech is InSpeech.COMPARISON else None
    fields = {"method": method, "anchor": anchor, "sequence_length": 16} | adapt
    return make_short(folder, name, align={"start_from": str(folder / "plain")}, **fields)


def make_bench(recipe: SpeechTrainRecipe, *, processes: Processes = ALONE) -> Workbench:
    """What stage B starts from, with a fresh adaptor."""
    return replace(build_bench(recipe, Path("recipe.yaml")), processes=processes)


def read_trained(folder: Path, name: str, delta: str = "last") -> dict[str, torch.Tensor]:
    return load_file(folder / name / delta / "trained.safetensors")


def read_all(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return {**read_trained(folder, name), **load_file(folder / name / "last" / "adaptor.safetensors")}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


class Kill(BaseException):
    """As if the process had been killed."""


def kill_at_third_step(progress: SpeechProgress) -> None:
    if (progress.activity, progress.done) == ("training", 3):
        raise Kill


def kill_and_resume(recipe: SpeechTrainRecipe) -> SpeechRun:
    """Kill the run at its third step, one after a checkpoint."""

    with pytest.raises(Kill):
        train_speech(recipe, on_progress=kill_at_third_step)
    return train_speech(recipe)
