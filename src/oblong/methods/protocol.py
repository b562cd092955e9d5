"""What every method against forgetting is: hooks of the tuning loop, each doing nothing unless a method says otherwise.

One optimizer step, with the hooks in their places:

    extend_batches -> (forward -> compute_extra_loss -> backward) x accumulation -> change_gradients -> clipping
    -> optimizer -> after_step
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from oblong.errors import MethodError
from oblong.methods.anchor import AnchorData
from oblong.methods.options import MethodOptions

Batch = Mapping[str, Any]
"""A collated micro-batch: `input_ids` and `labels` (batch x sequence_length) and whatever else the model takes."""

State = dict[str, Any]
"""Tensors, numbers, strings and nestings of them: what `torch.load(weights_only=True)` reads back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a method may know of the training it takes part in.

    Attributes:
        model: the model itself, without any wrapper; at the base's weights when a method is prepared.
        trained: the parameters that train, by module name; a tied parameter is there once.
        anchor: old data, if any was given.
        autocast: the precision of the training's forward passes.
        read_items: the first so many training items, collated into micro-batches of one.
        batch_size: sequences per micro-batch.
        learning_rate: the peak learning rate.
        seed: of everything that a method draws.
    """

    model: nn.Module
    trained: Mapping[str, nn.Parameter]
    anchor: AnchorData | None = None
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    read_items: Callable[[int], Iterator[Batch]] = field(default=lambda count: iter(()))
    batch_size: int = 1
    learning_rate: float = 1e-4
    seed: int = 0

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter lies."""
        return next(self.model.parameters()).device

    @property
    def old_data(self) -> AnchorData:
        """The anchor, for a method that cannot do without.

        Raises:
            MethodError: none was given.
        """
        if self.anchor is None:
            raise MethodError("this method needs old data: give an anchor, for example one that the base generates")
        return self.anchor

    def on_newest_anchor(self) -> Training:
        """The same with the newest group of old data alone: in a sequence, the task that was learned last."""
        return replace(self, anchor=self.old_data.take_newest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a method's extra memory depends on.

    Attributes:
        num_trained: elements that train.
        num_tokens: tokens of one micro-batch.
        batch_size: sequences of one micro-batch.
        vocabulary: number of tokens of the vocabulary.
        num_anchor_tasks: groups of old data.
        largest_matrix: elements of the largest trained tensor.
        activation_bytes: estimate of what one micro-batch keeps for its backward pass, without logits; 0 not known.
    """

    num_trained: int
    num_tokens: int
    vocabulary: int
    batch_size: int = 1
    num_anchor_tasks: int = 1
    largest_matrix: int = 0
    activation_bytes: int = 0

    @property
    def logits_bytes(self) -> int:
        """One float32 copy of a micro-batch's logits."""
        return 4 * self.num_tokens * self.vocabulary


class Method(Protocol):
    """A method against forgetting. Subclass it and override what differs from plain fine-tuning.

    The `return` of the empty hooks tells type checkers that a subclass need not define them.
    """

    whole_tensors: ClassVar[bool] = True
    """It sees parameters or gradients, or runs the base, and so refuses sharded tensors."""

    def prepare(self, training: Training) -> None:
        """Before training, with the model at the base's weights; also before a resume."""
        return

    def measure(self) -> None:
        """After `prepare`, on a fresh run only: estimates that cost time. They belong into `state_dict`."""
        return

    def build_optimizer(
        self, groups: Sequence[Mapping[str, Any]], learning_rate: float
    ) -> torch.optim.Optimizer | None:
        """An optimizer of the method's own for the given parameter groups; None for the training's."""
        return None

    def extend_batches(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """The micro-batches of one step, changed or extended before their tokens are counted."""
        return batches

    def compute_extra_loss(self, batch: Batch, logits: Tensor, num_items: Tensor | float) -> Tensor | None:
        """A term for the loss of one micro-batch.

        Args:
            batch: what the model was given.
            logits: batch x sequence_length x vocabulary, with gradient.
            num_items: predicted tokens of the whole step; a mean over tokens is a sum divided by this.

        Returns:
            A scalar, or None for nothing.
        """
        return None

    def change_gradients(self) -> None:
        """Change `.grad` of the trained parameters: once a step, after the last backward pass, before clipping."""
        return

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """After the optimizer's step, before the learning rate changes and gradients are cleared."""
        return

    def finish(self) -> None:
        """At the end of the task, with the tuned weights in the model."""
        return

    @contextmanager
    def as_if_finished(self) -> Iterator[None]:
        """Inside the block the model is what `finish` would make of it now; afterwards training can go on."""
        yield

    def state_dict(self) -> State:
        """All that a resumed run could not compute again from the base model."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Go on from `state_dict`; called after `prepare`, instead of `measure`."""
        return

    def keep_for_next_task(self) -> State:
        """After `finish`: what the method must know of this task and those before when it learns the next one."""
        return {}

    def start_next_task(self, state: State) -> None:
        """Take over `keep_for_next_task` of the task before; called after `prepare`, before `measure`."""
        return

    @property
    def reads_by_task(self) -> bool:
        """Whether the model answers otherwise when it is told which of the learned tasks a text is of."""
        return False

    def as_told(self, task: int) -> AbstractContextManager[None]:
        """Inside the block it is told: 0 is the first task learned. For a method that reads by task."""
        return nullcontext()

    def forecast_bytes(self, sizes: Sizes) -> int:
        """Peak memory in addition to plain fine-tuning's."""
        return 0


class PlainFineTuning(Method):
    """The limit case: nothing is done."""

    whole_tensors = False

    def __init__(self, options: MethodOptions | None = None) -> None:
        del options  # there are none
