"""`train_speech`: a recipe becomes a SpeechRun with its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from oblong.models.quiet import quiet_transformers
from oblong.records import SpeechRun, SpeechRunStatus
from oblong.speech.training.method_fit import refuse_processes
from oblong.speech.training.preparing import Inputs, read_inputs
from oblong.speech.training.processes import Processes, join_processes, refuse_idle_processes
from oblong.speech.training.progress import OnSpeechProgress, ignore_progress
from oblong.speech.training.recipe import SpeechTrainRecipe
from oblong.speech.training.stages import SpeechTraining
from oblong.speech.training.workspace import open_workspace, require_workspace
from oblong.tuning.run import use_threads
from oblong.tuning.workspace import RUN_FILE, close_workspace, locate_workspace, refuse_existing_output

RECIPE: Final = Path("recipe")


def train_speech(
    recipe: SpeechTrainRecipe,
    *,
    on_progress: OnSpeechProgress | None = None,
    resume: bool = True,
    force: bool = False,
    path: Path = RECIPE,
) -> SpeechRun:
    """Teach a language model to hear, and watch what becomes of its text.

    If the recipe says so, the adaptor first learns to spell. Stage A trains it until the alignment gate opens, stage B
    the arm's tensors and the adaptor. Word error rates and text retention are measured at every evaluation. A run that
    was interrupted goes on from its last checkpoint and ends in the same weights as an uninterrupted one. A loss that
    is not finite ends the run as `diverged`; nothing of it reaches the weights.

    Under torchrun or `accelerate launch` all processes call it: they divide every batch and evaluation, and the run is
    that of one process up to rounding. The first one writes and reports.

    Args:
        recipe: what to do.
        on_progress: called after each step, and around evaluations.
        resume: go on with an unfinished run of the same output; false starts over.
        force: replace a finished run of the same output, once this one is whole.
        path: of the recipe, for messages.

    Returns:
        The SpeechRun, as written to `OUTPUT/run.json`.

    Raises:
        UserError: more processes than a batch has utterances, or they do not share a disk.
        MethodError: the method cannot work with the Plan's tensors, in this memory, or with several processes.
        OtherProcessError: another process failed.
        OutputExistsError: the output exists and `force` is false.
        RecipeError: the recipe names what cannot be read; all of it is listed.
        PlanMismatchError, SpeechModelError, DataError: what it names does not fit together, or holds nothing usable.
        VerificationError: labels are wrong, or a frozen tensor moved.
        OutputWriteError: the disk is full or the place is not writable.
    """
    with join_processes() as processes:
        output = Path(recipe.output)
        inputs = processes.agree(lambda: _open_inputs(recipe, path, processes, force=force))
        workspace = processes.first(lambda: open_workspace(output, recipe, inputs.digests, resume=resume))
        processes.agree(lambda: require_workspace(locate_workspace(output)))
        finished = processes.first(lambda: _read_finished(workspace))
        if finished is None:
            report = on_progress if on_progress is not None and processes.is_first else ignore_progress
            with use_threads(recipe.threads), quiet_transformers():
                finished = SpeechTraining(recipe, inputs, workspace, report, processes).run()
        processes.first(lambda: _close(workspace, output, force=force))
        return finished


def _open_inputs(recipe: SpeechTrainRecipe, path: Path, processes: Processes, *, force: bool) -> Inputs:
    refuse_existing_output(Path(recipe.output), force=force)
    refuse_idle_processes(recipe, processes.count)
    refuse_processes(recipe.adapt.method, processes.count)
    return read_inputs(recipe, path)


def _close(workspace: Path, output: Path, *, force: bool) -> None:
    refuse_existing_output(output, force=force)
    close_workspace(workspace, output)


def _read_finished(workspace: Path) -> SpeechRun | None:
    """The record of a run that was killed between its last write and the renaming."""
    path = workspace / RUN_FILE
    run = SpeechRun.read(path) if path.exists() else None
    return None if run is None or run.status is SpeechRunStatus.RUNNING else run
