"""One stage of training: optimizer steps over length buckets, evaluations, checkpoints, until a rule says stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn

from oblong.corpora.speech import BatchPosition, BucketRule, iter_batches
from oblong.methods.protocol import Method, PlainFineTuning
from oblong.records import SpeechPoint, SpeechStage, StageRecord, TrainingPoint
from oblong.speech.training.batches import BatchMaker, Clip, SpeechBatch
from oblong.speech.training.forward import SpeechForward
from oblong.speech.training.masking import mask_batch
from oblong.speech.training.objective import Objective
from oblong.speech.training.processes import Processes
from oblong.speech.training.progress import OnSpeechProgress, SpeechProgress
from oblong.speech.training.recipe import MaskingRecipe, OptimizerRecipe, SpeechTrainRecipe, count_warmup
from oblong.speech.training.state import CheckpointStore, StageState, TrainingState
from oblong.speech.training.stopping import Verdict

BETA1 = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Parameters that share a peak learning rate."""

    parameters: Mapping[str, nn.Parameter]
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """What a stage does.

    Attributes:
        stage: its name.
        objective: what a step minimises, in terms.
        batch: how utterances are grouped.
        groups: what trains; names differ between groups.
        num_steps: of the schedule; the stage may end before.
        evaluate_every: steps between evaluations.
        optimizer: AdamW and schedule.
        plan_end: the step to end at, from the stage's evaluations so far.
        judge: after an evaluation, why to end now.
        measure: an evaluation; told what came before in this stage.
        find_best: step of the best evaluation so far.
        method: what is done against forgetting, prepared; it sees the language model's tensors alone.
        masking: what is hidden of each utterance, if anything.
    """

    stage: SpeechStage
    objective: Objective
    batch: BucketRule
    groups: Sequence[ParameterGroup]
    num_steps: int
    evaluate_every: int
    optimizer: OptimizerRecipe
    plan_end: Callable[[Sequence[SpeechPoint]], int]
    judge: Callable[[Sequence[SpeechPoint]], Verdict | None]
    measure: Callable[[StageState, float | None], SpeechPoint]
    find_best: Callable[[Sequence[SpeechPoint]], SpeechPoint | None]
    method: Method = field(default_factory=PlainFineTuning)
    masking: MaskingRecipe | None = None

    @property
    def trained(self) -> Mapping[str, nn.Parameter]:
        """All parameters that train, by name."""
        return {name: parameter for group in self.groups for name, parameter in group.parameters.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """What all stages share."""

    recipe: SpeechTrainRecipe
    forward: SpeechForward
    maker: BatchMaker
    clips: Sequence[Clip]
    device: torch.device
    store: CheckpointStore
    on_progress: OnSpeechProgress
    on_point: Callable[[TrainingState], None]
    processes: Processes


class NotFiniteError(ArithmeticError):
    """Leaves the loop before the optimizer can write a loss or gradient that is not finite into the weights."""


class StageRunner:
    """Runs one stage from where its state says."""

    def __init__(self, bench: Workbench, plan: StagePlan, state: TrainingState, *, resume: bool) -> None:
        self._bench = bench
        self._plan = plan
        self.state = state
        self._optimizer = make_optimizer(plan)
        self._schedule = make_schedule(self._optimizer, plan)
        if resume:
            bench.processes.agree(self._restore)
        else:
            plan.method.measure()
        bench.processes.copy_first(plan.trained.values())

    def run(self) -> Verdict | None:
        """Train to the end of the stage.

        Returns:
            The rule that ended it, None if it came to its planned end.

        Raises:
            NotFiniteError: a loss or gradient is not finite; the weights are those before.
            OutputWriteError: a checkpoint could not be written; the one before survives.
        """
        if not self._current.points:
            self._evaluate()
        batches = self._iter_batches()
        while True:
            points = self._current.points
            step, end = self._current.step, self._plan.plan_end(points)
            evaluated = bool(points) and points[-1].step == step
            if evaluated and (verdict := self._plan.judge(points)) is not None:
                return verdict
            if evaluated and step >= end:
                return None
            if not evaluated and (step >= end or step % self._plan.evaluate_every == 0):
                self._evaluate()
                continue
            self._step(*next(batches), end)
            if self._current.step % self._bench.recipe.save_every == 0:
                self._bench.processes.first(self._save)

    @property
    def _current(self) -> StageState:
        return self.state.current

    def _update(self, **changes: Any) -> None:
        current = self._current.model_copy(update=changes)
        self.state = self.state.model_copy(update={"current": current})

    def _iter_batches(self) -> Iterator[tuple[BatchPosition, list[Clip]]]:
        bench = self._bench
        start = BatchPosition(self._current.epoch, self._current.batch)
        seconds = [clip.seconds for clip in bench.clips]
        for position, members in iter_batches(seconds, self._plan.batch, seed=bench.recipe.seed, start=start):
            yield position, [bench.clips[member] for member in members]

    def _step(self, position: BatchPosition, clips: Sequence[Clip], end: int) -> None:
        started = time.perf_counter()
        processes = self._bench.processes
        batch = self._bench.maker.make_share(clips, processes).to(self._bench.device)
        if self._plan.masking is not None:
            seed = self._bench.recipe.seed
            batch = mask_batch(batch, self._plan.masking, position, seed=seed, processes=processes)
        self._optimizer.zero_grad(set_to_none=True)
        (value,) = processes.add(self._differentiate(batch))
        if not math.isfinite(value):
            raise NotFiniteError(f"the loss of step {self._current.step + 1} is {value}")
        processes.add_gradients(self._plan.trained.values())
        self._plan.method.change_gradients()
        norm = float(nn.utils.clip_grad_norm_(self._plan.trained.values(), self._plan.optimizer.max_gradient_norm))
        if not math.isfinite(norm):
            raise NotFiniteError(f"the gradient of step {self._current.step + 1} is {norm}")
        rate = float(self._schedule.get_last_lr()[0])
        self._optimizer.step()
        self._plan.method.after_step(self._optimizer)
        self._schedule.step()
        current = self._current
        done = TrainingPoint(step=current.step + 1, loss=value, learning_rate=rate, gradient_norm=norm)
        self._update(
            step=done.step,
            epoch=position.epoch,
            batch=position.batch + 1,
            seconds=current.seconds + time.perf_counter() - started,
            num_utterances=current.num_utterances + len(clips),
            num_tokens=current.num_tokens + batch.num_tokens,
            losses=(*current.losses, done),
        )
        self._report("training", done.step, end, loss=value)

    def _differentiate(self, batch: SpeechBatch) -> float:
        """Add up the gradients of the loss's terms; returns the loss."""
        total = 0.0
        for term in self._plan.objective(batch, self._current.step):
            # Also of what is not finite: with a sharded model all processes go backwards together.
            term.backward()  # type: ignore[no-untyped-call]
            total += term.item()
        return total

    def _evaluate(self) -> None:
        current = self._current
        self._optimizer.zero_grad(set_to_none=True)
        self._report("evaluating", current.step, self._plan.plan_end(current.points))
        since = current.points[-1].step if current.points else 0
        recent = [point.loss for point in current.losses[since:] if point.loss is not None]
        # Told by the first: decisions follow from it, and a last bit may differ between machines.
        with self._plan.method.as_if_finished():
            point = self._bench.processes.tell(
                self._plan.measure(current, math.fsum(recent) / len(recent) if recent else None)
            )
        points = (*current.points, point)
        self._update(points=points)
        best = self._plan.find_best(points)
        self._bench.processes.first(lambda: self._keep(point, is_best=best is point))
        self._report("evaluated", current.step, self._plan.plan_end(points))

    def _keep(self, point: SpeechPoint, *, is_best: bool) -> None:
        """Write an evaluation down, with the tensors that it is of."""
        if is_best:
            with self._plan.method.as_if_finished():
                self._bench.store.save_best(point.stage, point.step, self._plan.trained)
        self._save()
        self._bench.on_point(self.state)

    def _report(self, activity: str, done: int, total: int, *, loss: float | None = None) -> None:
        points = self.state.points
        self._bench.on_progress(
            SpeechProgress(
                activity=activity,
                done=done,
                total=total,
                stage=self._plan.stage,
                loss=loss,
                point=points[-1] if points else None,
            )
        )

    def _save(self) -> None:
        best = self._plan.find_best(self._current.points)
        machinery = {
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "generators": read_generators(),
            "method": self._plan.method.state_dict(),
        }
        self._bench.store.save(self.state, self._plan.trained, machinery, None if best is None else best.step)

    def _restore(self) -> None:
        machinery = self._bench.store.restore(self._plan.trained)
        self._optimizer.load_state_dict(machinery["optimizer"])
        self._schedule.load_state_dict(machinery["schedule"])
        write_generators(machinery["generators"])
        self._plan.method.load_state_dict(send_to_device(machinery["method"], self._bench.device))


def make_optimizer(plan: StagePlan) -> torch.optim.Optimizer:
    """AdamW without weight decay: decay pulls weights to zero, which is forgetting by itself."""
    groups: list[dict[str, Any]] = [
        {"params": list(group.parameters.values()), "lr": group.learning_rate}
        for group in plan.groups
        if group.parameters
    ]
    return torch.optim.AdamW(groups, betas=(BETA1, plan.optimizer.beta2), weight_decay=0.0, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, plan: StagePlan) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then a cosine to a share of the peak."""
    warmup = count_warmup(plan.optimizer, plan.num_steps)

    def scale(step: int) -> float:
        return compute_rate_factor(
            step, num_steps=plan.num_steps, warmup=warmup, final_share=plan.optimizer.final_share
        )

    return torch.optim.lr_scheduler.LambdaLR(optimizer, scale)


def compute_rate_factor(step: int, *, num_steps: int, warmup: int, final_share: float) -> float:
    """The share of the peak rate that step `step`, from 0, takes.

    (step + 1) / warmup during the warm-up, then f + (1 - f) (1 + cos(pi t)) / 2 with t from 0 to 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, num_steps - 1 - warmup))
    return final_share + (1 - final_share) * (1 + math.cos(math.pi * progress)) / 2


def read_generators() -> dict[str, Any]:
    """State of torch's random number generators."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        # Of this process's GPU alone: asking the others would take memory on each.
        states["device"] = torch.cuda.get_rng_state()
    return states


def write_generators(states: Mapping[str, Any]) -> None:
    """Put the generators back."""
    torch.set_rng_state(states["cpu"])
    if "device" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["device"])


def describe_stage(current: StageState, *, num_trainable: int, log_every: int, aligned_at: int | None) -> StageRecord:
    """The record of a stage so far."""
    return StageRecord(
        stage=current.stage,
        num_steps=current.step,
        num_utterances=current.num_utterances,
        num_tokens=current.num_tokens,
        seconds=current.seconds,
        num_trainable=num_trainable,
        aligned_at=aligned_at,
        history=summarise_losses(current.losses, every=log_every),
    )


def summarise_losses(losses: Sequence[TrainingPoint], *, every: int) -> tuple[TrainingPoint, ...]:
    """The loss curve: the first step alone, then a mean per `every` steps, and the last step."""
    ends = [point.step for point in losses if point.step == 1 or point.step % every == 0 or point is losses[-1]]
    starts = [0, *ends][: len(ends)]
    return tuple(_mean_point(losses[start:end]) for start, end in zip(starts, ends, strict=True))


def _mean_point(points: Sequence[TrainingPoint]) -> TrainingPoint:
    losses = [point.loss for point in points if point.loss is not None]
    return points[-1].model_copy(update={"loss": math.fsum(losses) / len(losses) if losses else None})
