"""`tune`: a recipe becomes a Run and a delta checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from oblong.checkpoints.delta import write_delta
from oblong.checkpoints.locate import locate_model
from oblong.corpora import Documents
from oblong.methods import build_method
from oblong.methods.options import PlainOptions
from oblong.models.added_modules import ModuleTensors
from oblong.models.causal_lm import load_causal_lm
from oblong.models.quiet import quiet_transformers
from oblong.models.stored_tensors import ChangedTensors, open_stored_tensors
from oblong.records import Plan, Provenance, Run, RunStatus, TrainingPoint
from oblong.tuning.adapters.applying import apply_recipe, obtain_plan
from oblong.tuning.adapters.protocol import Adapter
from oblong.tuning.anchor import obtain_anchor
from oblong.tuning.chaining import read_finished_task, write_memory
from oblong.tuning.data import build_training_blocks, read_training_text
from oblong.tuning.memory import measure_peak_memory
from oblong.tuning.observing import Observation, Observer
from oblong.tuning.prove import Proof, digest_unstored, prove_frozen
from oblong.tuning.recipe import TuneRecipe
from oblong.tuning.trainer import ProgressCallback, StepRecord, TrainingResult, train
from oblong.tuning.workspace import (
    ADAPTER_DIRECTORY,
    ANCHOR_FILE,
    CHECKPOINTS_DIRECTORY,
    DELTA_DIRECTORY,
    RUN_FILE,
    close_workspace,
    open_workspace,
    refuse_existing_output,
)


def tune(
    recipe: TuneRecipe,
    *,
    on_progress: ProgressCallback | None = None,
    observer: Observer | None = None,
    resume: bool = True,
    force: bool = False,
) -> Run:
    """Fine-tune exactly the tensors of a Plan, or those of an adapter, and prove that nothing else moved.

    A run that was interrupted goes on from its last checkpoint, and its losses are those of an uninterrupted run. A run
    whose loss or gradient is no longer finite stops before the optimizer writes that into the weights; its status is
    `diverged` and its delta holds the weights of the last good step.

    Args:
        recipe: what to do.
        on_progress: called after each optimizer step with (step, total steps, loss in nats per token).
        observer: who looks at the model at some steps, and may end the run there: its status is then `stopped`.
        resume: go on with an unfinished run of the same output; false starts over.
        force: replace a finished run of the same output, once this one is whole.

    Returns:
        The Run, as written to `OUTPUT/run.json`.

    Raises:
        OutputExistsError: the output exists and `force` is false.
        UnsupportedFormatError: the model's weights are quantised; the original that they were made from can be tuned.
        ModelNotFoundError, RecordError, DataError, PlanMismatchError, SelectionError: the recipe asks for what cannot
            be done.
        MissingExtraError: the adapter needs PEFT, which is not installed.
        VerificationError: a tensor outside the Plan moved; no delta is written.
        OutputWriteError: the disk is full or the place is not writable.
    """
    output = Path(recipe.output)
    refuse_existing_output(output, force=force)
    plan = obtain_plan(recipe)
    documents = read_training_text(recipe.data)
    with use_threads(recipe.threads), quiet_transformers():
        workspace, run = _run(recipe, plan, documents, on_progress=on_progress, observer=observer, resume=resume)
    refuse_existing_output(output, force=force)
    close_workspace(workspace, output)
    return run


def _run(
    recipe: TuneRecipe,
    plan: Plan,
    documents: Documents,
    *,
    on_progress: ProgressCallback | None,
    observer: Observer | None,
    resume: bool,
) -> tuple[Path, Run]:
    stored = open_stored_tensors(locate_model(recipe.model))
    stored.refuse_quantised()
    before = read_finished_task(recipe, plan)
    loaded = load_causal_lm(recipe.model, dtype=recipe.dtype, delta=None if before is None else before.delta_folder)
    start = stored if before is None else ChangedTensors(stored, before.delta.tensors)
    blocks, num_steps = build_training_blocks(documents.texts, loaded.tokenizer, recipe)
    unstored = digest_unstored(loaded.model, stored)
    adapter = apply_recipe(loaded.model, plan, recipe, stored=start, task=documents.name)

    workspace = open_workspace(Path(recipe.output), recipe, plan, documents.describe(), resume=resume)
    if (workspace / RUN_FILE).exists():  # killed between the last write and the renaming
        return workspace, Run.read(workspace / RUN_FILE)
    checkpoints = workspace / CHECKPOINTS_DIRECTORY
    finished = partial(adapter.as_finished, getattr(torch, recipe.dtype))
    method = build_method(recipe.method or PlainOptions())
    anchor = obtain_anchor(recipe, loaded, workspace / ANCHOR_FILE, before=before)
    adapter.start(blocks.blocks, anchor)
    result = train(
        adapter.applied,
        blocks,
        recipe,
        num_steps=num_steps,
        checkpoints=checkpoints,
        method=method,
        anchor=anchor,
        memory=None if before is None else before.memory,
        callbacks=adapter.list_callbacks(),
        on_progress=on_progress,
        observation=None if observer is None else Observation(observer, loaded, finished),
    )

    run = describe_run(recipe, adapter, documents, result)
    adapter.save(workspace / ADAPTER_DIRECTORY)
    proof = prove_frozen(adapter.fold(), stored, model_name=recipe.model, unstored=unstored)
    write_proved(workspace / DELTA_DIRECTORY, proof, adapter.describe_modules())
    if recipe.keep_for_next and not result.diverged:
        write_memory(workspace, method)
    run.write(workspace / RUN_FILE)
    return workspace, run


def write_proved(folder: Path, proof: Proof, modules: ModuleTensors | None) -> None:
    """The delta of a proved run: the tensors that changed, and the modules that stay beside the base, if any."""
    if modules is None:
        write_delta(folder, proof.tensors, proof.manifest, replace=True)
        return
    manifest = proof.manifest.model_copy(update={"modules": modules.manifest})
    write_delta(folder, proof.tensors, manifest, modules=modules.tensors, replace=True)


def describe_run(recipe: TuneRecipe, adapter: Adapter, documents: Documents, result: TrainingResult) -> Run:
    """The record of a training."""
    applied = adapter.applied
    num_steps = len(result.steps) - result.diverged
    num_tokens = num_steps * recipe.blocks_per_step * recipe.sequence_length
    seconds = result.steps[-1].seconds
    return Run(
        name=Path(recipe.output).name,
        model=recipe.model,
        plan_name=applied.plan.name,
        plan_digest=applied.plan.digest(),
        adapter=adapter.describe(),
        recipe=recipe.model_dump(mode="json"),
        data=documents.describe(),
        seed=recipe.seed,
        status=choose_status(result),
        stopped=result.stopped,
        num_trainable=applied.num_trainable,
        num_parameters=applied.num_parameters,
        num_steps=num_steps,
        num_tokens=num_tokens,
        seconds=seconds,
        tokens_per_second=num_tokens / seconds if seconds > 0 else 0.0,
        peak_memory_bytes=measure_peak_memory(),
        history=summarise_steps(result.steps, log_every=recipe.log_every),
        delta=DELTA_DIRECTORY,
        provenance=Provenance.here(),
    )


def choose_status(result: TrainingResult) -> RunStatus:
    """How a training ended."""
    if result.diverged:
        return RunStatus.DIVERGED
    return RunStatus.COMPLETED if result.stopped is None else RunStatus.STOPPED


def summarise_steps(steps: Sequence[StepRecord], *, log_every: int) -> tuple[TrainingPoint, ...]:
    """The loss curve: the first step alone, then one point per `log_every` steps, and the last step."""
    ends = [step.step for step in steps if step.step == 1 or step.step % log_every == 0 or step is steps[-1]]
    starts = [0, *ends[:-1]]
    return tuple(_summarise(steps[start:end]) for start, end in zip(starts, ends, strict=True))


def _summarise(steps: Sequence[StepRecord]) -> TrainingPoint:
    last = steps[-1]
    return TrainingPoint(
        step=last.step,
        loss=_finite(math.fsum(step.loss for step in steps) / len(steps)),
        learning_rate=last.learning_rate,
        gradient_norm=_finite(last.gradient_norm),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@contextmanager
def use_threads(num_threads: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads inside the block; None leaves it alone."""
    before = torch.get_num_threads()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
