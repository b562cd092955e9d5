"""PackNet: each task owns weights of its own; what a task owns never moves again.

    before a new task   of the weights that the last task owns, the largest share stays its own, the others are freed
                        (set to zero, and the kept ones may be retrained on old data)
    during it           only freed weights move
    task k is read as   the weights that tasks 1 to k own; all others are zero

Source: Mallya and Lazebnik 2018, and the authors' `prune.py`: magnitudes are ranked within each tensor, biases and
normalisations belong to the first task. For a language model the first task is the base itself, so preparing it prunes
it: `report` says what that costs on anchor text, before and after retraining. Momentum and weight decay would move
weights whose gradient is zero; they are put back after every step. `zero_freed: false` (ours) only freezes the largest
weights and starts the new task from the base's own small ones; the base is then not pruned, and cannot be read out
again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from oblong.methods.anchor_losses import compute_anchor_gradients, measure_anchor_loss
from oblong.methods.options import PackNetOptions
from oblong.methods.owned_weights import OwnedWeights
from oblong.methods.protocol import Sizes, State, Training

FREE = 0
BASE_TASK = 1


class PackNet(OwnedWeights):
    """Used again for a next task, it frees weights of the last one.

    Attributes:
        owners: the task that each weight belongs to, uint8; 0 is free.
        task: the task that trains now; the base is 1.
        report: anchor loss of the base, once pruned, and once retrained, nats per token; empty without an anchor.
    """

    def __init__(self, options: PackNetOptions) -> None:
        super().__init__()
        self._options = options
        self.owners: dict[str, Tensor] = {}
        self.task = BASE_TASK
        self.report: dict[str, float] = {}

    def prepare(self, training: Training) -> None:
        """At first everything belongs to the base."""
        super().prepare(training)
        for name, value in training.trained.items():
            self.owners.setdefault(name, torch.full_like(value, BASE_TASK, dtype=torch.uint8))

    def measure(self) -> None:
        """Free weights of the last task, mend the rest on anchor text, and begin the new task."""
        self._record("base")
        for name, value in self.training.trained.items():
            if self._options.strength == 0:
                self.owners[name].fill_(FREE)
            elif value.ndim > 1:
                self._free_smallest(name)
        self._record("pruned")
        if self._options.retrain_steps and self._options.strength > 0:
            self._retrain()
            self._record("retrained")
        self.task += 1

    def find_owned(self, name: str) -> Tensor:
        """All that is not free."""
        return self.owners[name] != FREE

    def finish(self) -> None:
        """The new task owns what it was free to train."""
        for owner in self.owners.values():
            owner.masked_fill_(owner == FREE, self.task)

    @contextmanager
    def reading(self, task: int) -> Iterator[None]:
        """Inside the block the model is that of one task: weights of later tasks and free ones are zero."""
        hidden = {name: value.detach().clone() for name, value in self.training.trained.items()}
        with torch.no_grad():
            for name, value in self.training.trained.items():
                owner = self.owners[name]
                value.masked_fill_((owner > task) | (owner == FREE), 0.0)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self.training.trained.items():
                    value.copy_(hidden[name])

    def state_dict(self) -> State:
        """Owners, the task's number, and what pruning cost."""
        return {"owners": self.owners, "task": self.task, "report": self.report}

    def load_state_dict(self, state: State) -> None:
        """Go on in the middle of a task; its weights are in the checkpoint."""
        self.owners, self.task, self.report = state["owners"], state["task"], state["report"]

    def keep_for_next_task(self) -> State:
        """Who owns what, and the task's number."""
        return {"owners": self.owners, "task": self.task}

    def start_next_task(self, state: State) -> None:
        """The weights of the tasks before stay theirs."""
        device = self.training.device
        self.owners = {name: owner.to(device) for name, owner in state["owners"].items()}
        self.task = state["task"]

    @property
    def reads_by_task(self) -> bool:
        """Where freed weights were zero, hiding them again gives an older task's model back."""
        return self._options.strength > 0 and self._options.zero_freed

    def as_told(self, task: int) -> AbstractContextManager[None]:
        """See `reading`, where the base is task 1."""
        return self.reading(BASE_TASK + 1 + task)

    def forecast_bytes(self, sizes: Sizes) -> int:
        """A byte per weight, the weights before a step, and the ranking of one tensor."""
        return 5 * sizes.num_trained + 12 * sizes.largest_matrix

    @torch.no_grad()
    def _free_smallest(self, name: str) -> None:
        value, owner = self.training.trained[name], self.owners[name]
        owned = owner == self.task
        magnitudes = value[owned].abs()
        num_freed = len(magnitudes) - round(self._options.strength * len(magnitudes))
        if num_freed == 0:
            return
        cutoff = magnitudes.float().kthvalue(num_freed).values
        freed = owned & (value.abs() <= cutoff)
        owner.masked_fill_(freed, FREE)
        if self._options.zero_freed:
            value.masked_fill_(freed, 0.0)

    def _retrain(self) -> None:
        """Mend what the current task still owns: the base on all old data, a task of a sequence on its own text."""
        options, trained = self._options, self.training.trained
        training = self.training if self.task == BASE_TASK else self.training.on_newest_anchor()
        optimizer = torch.optim.AdamW(trained.values(), lr=options.retrain_learning_rate, weight_decay=0.0)
        for step in range(options.retrain_steps):
            blocks_NT = training.old_data.draw(options.retrain_batch, seed=training.seed, step=step)
            for name, gradient in compute_anchor_gradients(training, blocks_NT).items():
                trained[name].grad = gradient.masked_fill(self.owners[name] != self.task, 0.0)
            optimizer.step()
        for value in trained.values():
            value.grad = None

    def _record(self, moment: str) -> None:
        anchor = self.training.anchor
        if anchor is not None:
            self.report[moment] = measure_anchor_loss(self.training, anchor.take(8))
