"""The training loop: Hugging Face's Trainer, with resume checkpoints that hold only what trains.

A checkpoint is written whole into a hidden directory and then renamed, so that a process killed at any moment leaves
either the previous checkpoint or the new one. It holds the float32 masters, the optimizer's and scheduler's state, the
random number generators and the loss of every step so far: a resumed run continues bit for bit.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from oblong.checkpoints.delta import create_directory
from oblong.methods import AnchorData, Method, MethodTrainerMixin
from oblong.methods.protocol import State
from oblong.tuning.apply import AppliedPlan
from oblong.tuning.data import TrainingBlocks
from oblong.tuning.observing import Observation
from oblong.tuning.recipe import TuneRecipe

ProgressCallback = Callable[[int, int, float], None]
"""Called after each optimizer step with (step, total steps, loss in nats per token)."""

CHECKPOINT_PREFIX: Final = "checkpoint-"
MASTERS_FILE: Final = "trained.safetensors"
STATE_FILE: Final = "trainer_state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One optimizer step.

    Attributes:
        step: counted from 1.
        loss: mean over the step's tokens, nats per token; not finite where the run diverged.
        learning_rate: that of the step.
        gradient_norm: global, before clipping; not finite where the run diverged.
        seconds: spent in the loop from the first step to the end of this one.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What the loop has to tell.

    Attributes:
        steps: every step of the run, also those before a resume.
        diverged: a loss or gradient was not finite; the weights are those before that step, finished by the method.
        stopped: why an observer ended the run early; None if none did.
    """

    steps: tuple[StepRecord, ...]
    diverged: bool
    stopped: str | None = None


class NotFiniteError(ArithmeticError):
    """Leaves the loop before the optimizer can write a loss or gradient that is not finite into the weights."""

    def __init__(self, *, loss: float, gradient_norm: float) -> None:
        self.loss = loss
        self.gradient_norm = gradient_norm
        super().__init__(f"loss {loss}, gradient norm {gradient_norm}")


def train(
    applied: AppliedPlan,
    blocks: TrainingBlocks,
    recipe: TuneRecipe,
    *,
    num_steps: int,
    checkpoints: Path,
    method: Method | None = None,
    anchor: AnchorData | None = None,
    memory: State | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    on_progress: ProgressCallback | None = None,
    observation: Observation | None = None,
) -> TrainingResult:
    """Train what was selected, from the newest checkpoint if there is one.

    Args:
        applied: the model with its Plan; trained in place.
        blocks: exactly the items of `num_steps` steps, in order.
        recipe: how to train.
        num_steps: optimizer steps.
        checkpoints: directory of the resume checkpoints.
        method: what to do against forgetting; None for plain fine-tuning.
        anchor: old data, for methods that need it.
        memory: what the method kept of the tasks before; None if this is the first.
        callbacks: what an adapter wants to be called.
        on_progress: called after each step.
        observation: who looks at the model on the way; it does not change what comes out.

    Raises:
        OutputWriteError: a checkpoint could not be written; the one before survives.
        MethodError: the method cannot work in this setting.
    """
    if recipe.gradient_checkpointing:
        enable_gradient_checkpointing(applied.model)
    trainer = SelectedTensorsTrainer(
        applied=applied,
        args=build_arguments(recipe, num_steps=num_steps, output=checkpoints),
        train_dataset=blocks,
        method=method,
        anchor=anchor,
        memory=memory,
        callbacks=[FiniteGradients(), *callbacks, ReportProgress(on_progress)],
    )
    if observation is not None:
        trainer.observe(observation)
    resume_from = find_last_checkpoint(checkpoints)
    try:
        trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
    except NotFiniteError as failure:
        trainer.method.finish()  # the weights are whole, and states on the way were looked at in this form
        failed = describe_failed_step(failure, trainer)
        return TrainingResult(steps=(*list_steps(trainer.state), failed), diverged=True)
    stopped = None if observation is None else observation.stopped
    return TrainingResult(steps=list_steps(trainer.state), diverged=False, stopped=stopped)


def build_arguments(recipe: TuneRecipe, *, num_steps: int, output: Path) -> TrainingArguments:
    """The recipe in the Trainer's words; nothing is reported to anyone and nothing is filtered from the loss."""
    return TrainingArguments(
        output_dir=str(output),
        max_steps=num_steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_gradient_norm,
        optim="adamw_torch_fused",
        bf16=recipe.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=recipe.seed,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if recipe.save_every else "no",
        save_steps=recipe.save_every or num_steps,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        log_level="critical",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def enable_gradient_checkpointing(model: Any) -> None:
    """Recompute activations in the backward pass; the non-reentrant way needs no gradient at the frozen embeddings."""
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(options)
    else:  # transformers before it renamed the method
        model.gradient_checkpointing_enable(options)


class SelectedTensorsTrainer(MethodTrainerMixin, Trainer):
    """A Trainer that reads blocks in their given order and checkpoints the selected tensors alone."""

    def __init__(self, *, applied: AppliedPlan, train_dataset: TrainingBlocks, **options: Any) -> None:
        super().__init__(model=applied.model, train_dataset=train_dataset, data_collator=stack_blocks, **options)
        self.remove_callback(PrinterCallback)
        self._trained = applied.trained
        self._blocks = train_dataset
        self._seconds_before: float | None = None
        self._observation: Observation | None = None

    def observe(self, observation: Observation) -> None:
        """Let someone look at the model on the way; the time that takes is none of the training's."""
        self._observation = observation
        observation.method = self.method
        self.add_callback(observation)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        del train_dataset
        return SequentialSampler(self._blocks)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass; a loss that is not finite ends the run."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not math.isfinite(value := loss.item()):
            raise NotFiniteError(loss=value, gradient_norm=math.nan)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step with the time spent in the loop so far, also before a resume."""
        if self._seconds_before is None:
            self._seconds_before = sum_seconds(self.state)
        if start_time is not None:
            observed = 0.0 if self._observation is None else self._observation.seconds
            logs["seconds"] = self._seconds_before + time.time() - start_time - observed
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        del model, trial
        root = Path(str(self.args.output_dir))
        target = root / f"{CHECKPOINT_PREFIX}{self.state.global_step}"
        with create_directory(target, replace=True) as directory:
            masters = {name: parameter.detach().contiguous() for name, parameter in self._trained.items()}
            save_file(masters, directory / MASTERS_FILE)
            self._save_optimizer_and_scheduler(str(directory))
            self._save_rng_state(str(directory))
            self.save_method(directory)
            self.state.save_to_json(str(directory / STATE_FILE))
        for older in list_checkpoints(root):
            if older != target:
                shutil.rmtree(older)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        del model
        masters = load_file(Path(resume_from_checkpoint) / MASTERS_FILE)
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(masters[name])


class FiniteGradients(TrainerCallback):
    """Stops before the optimizer when a gradient is not finite."""

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Look at the gradients of everything that trains."""
        gradients = [parameter.grad for parameter in kwargs["model"].parameters() if parameter.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            raise NotFiniteError(loss=math.nan, gradient_norm=norm)


class ReportProgress(TrainerCallback):
    """Hands each step's loss on."""

    def __init__(self, on_progress: ProgressCallback | None) -> None:
        self._on_progress = on_progress

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called for every step, since every step is logged."""
        logs: Mapping[str, float] = kwargs["logs"]
        if self._on_progress is not None and "loss" in logs:
            self._on_progress(state.global_step, state.max_steps, logs["loss"])


def stack_blocks(items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch: each field stacked to batch x sequence_length."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def find_last_checkpoint(directory: Path) -> Path | None:
    """The newest whole resume checkpoint; half-written ones have hidden names and do not count."""
    return max(list_checkpoints(directory), key=_step_of, default=None)


def list_checkpoints(directory: Path) -> tuple[Path, ...]:
    """All whole resume checkpoints."""
    return tuple(directory.glob(f"{CHECKPOINT_PREFIX}*")) if directory.is_dir() else ()


def list_steps(state: TrainerState) -> tuple[StepRecord, ...]:
    """Every step that the Trainer's log knows, also from before a resume."""
    return tuple(_iterate_steps(state))


def describe_failed_step(failure: NotFiniteError, trainer: Trainer) -> StepRecord:
    """The step that was not finished."""
    scheduler = trainer.lr_scheduler
    rate = 0.0 if scheduler is None else float(scheduler.get_last_lr()[0])
    return StepRecord(
        step=trainer.state.global_step + 1,
        loss=failure.loss,
        learning_rate=rate,
        gradient_norm=failure.gradient_norm,
        seconds=sum_seconds(trainer.state),
    )


def sum_seconds(state: TrainerState) -> float:
    """Time spent in the loop up to the last logged step."""
    return max((float(entry.get("seconds", 0.0)) for entry in state.log_history), default=0.0)


def _iterate_steps(state: TrainerState) -> Iterator[StepRecord]:
    for entry in state.log_history:
        if "loss" in entry:
            yield StepRecord(
                step=int(entry["step"]),
                loss=float(entry["loss"]),
                learning_rate=float(entry["learning_rate"]),
                gradient_norm=float(entry["grad_norm"]),
                seconds=float(entry["seconds"]),
            )


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(CHECKPOINT_PREFIX))
