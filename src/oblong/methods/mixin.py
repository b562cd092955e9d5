"""The hooks of a method inside `transformers.Trainer`.

    trainer = MethodTrainer(model, arguments, train_dataset=..., method=build_method(EwcOptions(strength=10)),
                            anchor=anchor)
    trainer.train()

`MethodTrainerMixin` does the same for a Trainer class of your own: put it before that class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from oblong.errors import MethodError
from oblong.methods.anchor import AnchorData
from oblong.methods.memory import forecast_sizes, refuse_if_too_large
from oblong.methods.protocol import Batch, Method, PlainFineTuning, State, Training
from oblong.methods.token_losses import mask_predicted

METHOD_FILE: Final = "method.pt"


class MethodTrainerMixin:
    """Calls a method's hooks; with `PlainFineTuning` the Trainer is what it was.

    Args:
        method: what to do against forgetting.
        anchor: old data, for methods that need it.
        memory: what the same method kept of the tasks before; None if this is the first.
    """

    def __init__(
        self,
        *args: Any,
        method: Method | None = None,
        anchor: AnchorData | None = None,
        memory: State | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.method: Method = PlainFineTuning() if method is None else method
        self._anchor = anchor
        self._memory = memory
        self._gradients_changed = False
        refuse_setting(self, whole_tensors=self.method.whole_tensors)
        self.add_callback(AfterStep(self.method))  # type: ignore[attr-defined]

    def train(self, resume_from_checkpoint: Any = None, *arguments: Any, **options: Any) -> Any:
        """Prepare the method at the base's weights, train, and let it finish.

        Raises:
            MethodError: the method's forecast does not fit in memory, or there is no checkpoint to resume from.
        """
        trainer: Any = self
        if resume_from_checkpoint is True:
            resume_from_checkpoint = find_last_checkpoint(Path(trainer.args.output_dir))
        training = self._describe_training()
        sizes = forecast_sizes(training, next(training.read_items(1), None))
        refuse_if_too_large(self.method.forecast_bytes(sizes), training.device)
        self.method.prepare(training)
        if self._memory is not None:
            self.method.start_next_task(self._memory)
        if resume_from_checkpoint:
            self.load_method(Path(resume_from_checkpoint), training.device)
        else:
            self.method.measure()
        result = super().train(resume_from_checkpoint or None, *arguments, **options)  # type: ignore[misc]
        self.method.finish()
        return result

    def save_method(self, directory: Path) -> None:
        """Write what a resumed run needs of the method; nothing for a method without state."""
        state = self.method.state_dict()
        if state:
            torch.save(state, directory / METHOD_FILE)
        else:  # a checkpoint of an earlier run may have been here
            (directory / METHOD_FILE).unlink(missing_ok=True)

    def load_method(self, directory: Path, device: torch.device) -> None:
        """Let the method go on from a checkpoint."""
        file = directory / METHOD_FILE
        state = torch.load(file, map_location=device, weights_only=True) if file.exists() else {}
        self.method.load_state_dict(state)

    def create_optimizer(self, model: Any = None) -> Any:
        """The method's own optimizer, if it has one."""
        trainer: Any = self
        if trainer.optimizer is None:
            groups = group_parameters(trainer)
            trainer.optimizer = self.method.build_optimizer(groups, trainer.args.learning_rate)
        return super().create_optimizer(model)  # type: ignore[misc]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of a step, as the method wants them, and their number of predicted tokens."""
        trainer: Any = self
        batches, num_items = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        changed = self.method.extend_batches(batches)
        if changed is batches:
            return batches, num_items
        return list(changed), trainer._get_num_items_in_batch(list(changed), trainer.args.device)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's own loss and the method's term."""
        batch = dict(inputs)
        loss, outputs = super().compute_loss(  # type: ignore[misc]
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        if model.training:
            num_items = count_items(batch) if num_items_in_batch is None else num_items_in_batch
            logits: Any = getattr(outputs, "logits", None)
            extra = self.method.compute_extra_loss(batch, logits, num_items)
            if extra is not None:
                loss = loss + extra * self._count_averaged(num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _count_averaged(self, num_items_in_batch: Any) -> int:
        """What the Trainer multiplies its own loss with, because gradients are averaged over processes."""
        trainer: Any = self
        averaged = num_items_in_batch is not None and trainer.args.average_tokens_across_devices
        return int(trainer.accelerator.num_processes) if averaged else 1

    def _clip_grad_norm(self, model: Any) -> Any:
        self.method.change_gradients()
        self._gradients_changed = True
        return super()._clip_grad_norm(model)  # type: ignore[misc]

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if not self._gradients_changed:  # no clipping was asked for
            self.method.change_gradients()
        self._gradients_changed = False
        return super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        trainer: Any = self
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        if trainer.args.should_save:
            self.save_method(Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}")

    def _describe_training(self) -> Training:
        trainer: Any = self
        model: nn.Module = trainer.accelerator.unwrap_model(trainer.model)
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        return Training(
            model=model,
            trained=trained,
            anchor=self._anchor,
            autocast=trainer.accelerator.autocast,
            read_items=self._read_items,
            batch_size=trainer.args.per_device_train_batch_size,
            learning_rate=trainer.args.learning_rate,
            seed=trainer.args.seed,
        )

    def _read_items(self, count: int) -> Iterator[Batch]:
        trainer: Any = self
        dataset = trainer.train_dataset
        indexed = hasattr(dataset, "__len__")
        items = (dataset[index] for index in range(min(count, len(dataset)))) if indexed else islice(dataset, count)
        collate = trainer._get_collator_with_removed_columns(trainer.data_collator)
        for item in items:
            yield collate([item])


def find_last_checkpoint(output: Path) -> str:
    """The newest checkpoint of a Trainer's folder.

    Raises:
        MethodError: there is none.
    """
    found: str | None = get_last_checkpoint(str(output)) if output.is_dir() else None  # type: ignore[no-untyped-call]
    if found is None:
        raise MethodError(
            f"{output} has no checkpoint to resume from: give the folder of the run that was interrupted, or leave "
            "resume_from_checkpoint out to start anew"
        )
    return found


class MethodTrainer(MethodTrainerMixin, Trainer):
    """A `transformers.Trainer` with a method against forgetting."""


class AfterStep(TrainerCallback):
    """Calls a method after the optimizer's step."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The learning rate is still that of the step."""
        optimizer = kwargs["optimizer"]
        self._method.after_step(getattr(optimizer, "optimizer", optimizer))


def group_parameters(trainer: Any) -> list[Mapping[str, Any]]:
    """The trained parameters in two groups, with and without weight decay, as the Trainer makes them."""
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    named = [(name, value) for name, value in trainer.model.named_parameters() if value.requires_grad]
    return [
        {"params": [value for name, value in named if name in decayed], "weight_decay": trainer.args.weight_decay},
        {"params": [value for name, value in named if name not in decayed], "weight_decay": 0.0},
    ]


def count_items(batch: Batch) -> int:
    """Tokens of a micro-batch that are predicted: labels that count, but for each sequence's first."""
    return int(mask_predicted(batch["labels"]).sum())


def refuse_setting(trainer: Any, *, whole_tensors: bool) -> None:
    """Stop where a method's hooks would see something else than whole, unscaled gradients.

    Raises:
        MethodError: float16 with a gradient scaler, or sharded tensors under a method that needs them whole.
    """
    if trainer.args.fp16:
        raise MethodError(
            "methods see gradients before they are clipped, and float16 scales them: use bf16, or float32 (no fp16)"
        )
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if whole_tensors and sharded:
        raise MethodError(
            "this method needs whole tensors and gradients, and FSDP or DeepSpeed shard them: train with DDP or on one "
            "device, or take replay or eaft, which work on batches and losses alone"
        )
