"""Looking at a model while it trains, without changing what comes out.

At the steps that an observer names the model is put, for a moment, into the form that the finished run would have: the
method's last touch, trained tensors rounded to what the delta checkpoint would hold, no autocast. Then the float32
masters come back, the very same tensors, and training goes on: its weights are bit for bit those of a run that nobody
looked at (design/032).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from oblong.methods.protocol import Method, PlainFineTuning
from oblong.models.causal_lm import LoadedModel
from oblong.models.stored_tensors import StoredTensors
from oblong.tuning.apply import AppliedPlan

FinishedForm = Callable[[], AbstractContextManager[None]]
"""Puts the model, inside the block, into the form in which a finished run gives it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """Who looks, and when.

    Attributes:
        steps: after which optimizer steps; those at or beyond the run's last are not looked at.
        look: called with the step and the model as it would be if the run ended there; returns why the run should end
            there, or None to go on. It must leave the model as it is.
    """

    steps: frozenset[int]
    look: Callable[[int, LoadedModel], str | None]


class Observation(TrainerCallback):
    """Calls an observer from inside the training loop.

    Attributes:
        stopped: the observer's reason to end the run; None so far.
        seconds: spent looking.
        method: what the run does against forgetting.
    """

    def __init__(self, observer: Observer, loaded: LoadedModel, finished: FinishedForm) -> None:
        self._observer = observer
        self._loaded = loaded
        self._finished = finished
        self.stopped: str | None = None
        self.seconds = 0.0
        self.method: Method = PlainFineTuning()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After a step, before its checkpoint."""
        if state.global_step not in self._observer.steps or state.global_step >= state.max_steps:
            return
        started = time.time()
        with self.method.as_if_finished(), self._finished(), unwrapped(self._loaded.model):
            self.stopped = self._observer.look(state.global_step, self._loaded)
        self.seconds += time.time() - started
        control.should_training_stop = self.stopped is not None


@contextmanager
def as_stored(applied: AppliedPlan, stored: StoredTensors, dtype: torch.dtype) -> Iterator[None]:
    """Inside the block trained tensors hold what a delta checkpoint would give back, in the frozen ones' dtype."""
    masters = {name: parameter.data for name, parameter in applied.trained.items()}
    try:
        for name, parameter in applied.trained.items():
            parameter.data = masters[name].to(stored.get_dtype(name)).to(dtype)
        yield
    finally:
        for name, parameter in applied.trained.items():
            parameter.data = masters[name]


@contextmanager
def unwrapped(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block `forward` is the model's own: accelerate puts one with autocast into the instance."""
    wrapped = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.__dict__["forward"] = wrapped
