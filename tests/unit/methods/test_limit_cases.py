"""Strength 0 is plain fine-tuning bit for bit for every method, the default is not, and a resume changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

from oblong.methods import METHODS, MethodOptions, parse_method
from tests.method_builders import make_llama, make_trainer, weights_of

# What makes a method do something within four steps on the tiny model.
ACTIVE: dict[str, dict[str, Any]] = {
    "a_gem": {"blocks": 1},
    "classp": {"anchor_blocks": 2},
    "eigenvalue_decay": {"strength": 0.5},
    "evolutionary_pruning": {"groups": 6, "population": 3, "generations": 1},
    "ewc": {"strength": 10.0},
    "gem": {"blocks": 2},
    "half_fine_tuning": {"strength": 0.5, "stage_steps": 1},
    "mas": {"strength": 10.0},
    "packnet": {"retrain_steps": 2},
    "replay": {"strength": 0.6},
    "si": {"strength": 10.0, "warmup_steps": 3},
    "stm": {"strength": 0.5},
    "svb": {"every": 1, "epsilon": 1e-4},
}
NAMES = [name for name in METHODS if name != "plain"]


def make_options(name: str, **fields: Any) -> MethodOptions:
    return parse_method({"name": name, **ACTIVE.get(name, {}), **fields})


def train(folder: Path, options: MethodOptions, **fields: Any) -> tuple[dict[str, Tensor], list[float]]:
    model = make_llama(dropout=0.5)
    trainer = make_trainer(folder, model, options, num_tasks=2, **fields)
    trainer.train()
    return weights_of(model), [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], list[float]]:
    return train(tmp_path_factory.mktemp("plain"), parse_method("plain"))


@pytest.fixture(scope="module")
def active(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Tensor]]:
    """The weights after training with a method at its default strength; each is trained once."""

    @cache
    def train_once(name: str) -> dict[str, Tensor]:
        return train(tmp_path_factory.mktemp(name), make_options(name))[0]

    return train_once


def test_plain_is_the_trainer_without_any_method(tmp_path: Path, plain: tuple[dict[str, Tensor], list[float]]) -> None:
    model = make_llama(dropout=0.5)
    own = make_trainer(tmp_path, model, parse_method("plain"))
    trainer = Trainer(model, own.args, train_dataset=own.train_dataset, data_collator=own.data_collator)
    trainer.train()
    assert_equal(weights_of(model), plain[0])


@pytest.mark.parametrize("name", NAMES)
def test_strength_zero_is_plain_fine_tuning(
    tmp_path: Path, plain: tuple[dict[str, Tensor], list[float]], name: str
) -> None:
    """Dropout is on, so that a method which drew from torch's own generator would be found out."""
    weights, losses = train(tmp_path, make_options(name, strength=0))
    assert losses == plain[1]
    assert_equal(weights, plain[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_default_strength_is_not(
    plain: tuple[dict[str, Tensor], list[float]], active: Callable[[str], dict[str, Tensor]], name: str
) -> None:
    weights = active(name)
    assert any(not torch.equal(value, plain[0][key]) for key, value in weights.items())
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


class KilledError(Exception):
    """Stands for the end of the process."""


class Kill(TrainerCallback):
    """Ends the run in the middle of the step after the checkpoint."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            raise KilledError


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, active: Callable[[str], dict[str, Tensor]], name: str
) -> None:
    options = make_options(name)
    killed = make_trainer(tmp_path / "cut", make_llama(dropout=0.5), options, num_tasks=2, **SAVING)
    killed.add_callback(Kill())
    with pytest.raises(KilledError):
        killed.train()
    model = make_llama(dropout=0.5)
    make_trainer(tmp_path / "cut", model, options, num_tasks=2, **SAVING).train(resume_from_checkpoint=True)
    assert_equal(weights_of(model), active(name))


SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
