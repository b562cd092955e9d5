"""A model that is told which of the learned tasks a text is of, where its method has an answer of its own for each.

PackNet's task k is read as the weights that tasks 1 to k own, that of columns and experts by the part that learned it.
A text of no learned task has no task to tell: it is read as everything is where nobody tells the task, with all weights
or by whom a gate or router chooses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from torch import nn

from oblong.comparing.evaluating import describe_scores
from oblong.comparing.jobs import Job
from oblong.evaluation.evaluate import Corpus, load_on_device, score_corpora
from oblong.methods import Method, Training, build_method
from oblong.methods.options import PlainOptions
from oblong.models.added_modules import find_added
from oblong.models.causal_lm import LoadedModel
from oblong.models.names import match_parameters
from oblong.records import CorpusScore, Evaluation
from oblong.tuning.chaining import read_memory
from oblong.tuning.recipe import TuneRecipe
from oblong.tuning.verify import TunedRun, read_tuned_run


def evaluate_told(job: Job, place: int, corpora: Sequence[Corpus], recipe: TuneRecipe) -> Evaluation:
    """Evaluate the model after a task on the texts of the learned tasks, each read as its own.

    Args:
        job: a sequence.
        place: the last task that was learned, from 0.
        corpora: held-out texts, among them one of each task by its name.
        recipe: of that task.

    Raises:
        NonFinitePredictionError: the model predicts NaN or infinity.
    """
    started = time.perf_counter()
    tuned = read_tuned_run(job.locate_run(place))
    loaded = load_on_device(job.model, dtype=job.dtype, delta=job.locate_run(place) / tuned.run.delta)
    tell = restore_telling(recipe, tuned, loaded)
    by_name = {corpus.documents.name: corpus for corpus in corpora}
    scores: dict[str, CorpusScore] = {}
    for number, task in enumerate(job.tasks[: place + 1]):
        with tell(number):
            scores |= score_corpora(loaded, [by_name[task.name]], window=job.window, stride=job.stride)
    return describe_scores(job, f"{job.arm}, told the task", scores, started=started)


def restore_telling(
    recipe: TuneRecipe, tuned: TunedRun, loaded: LoadedModel
) -> Callable[[int], AbstractContextManager[None]]:
    """How to tell a tuned model the task, 0 being the first that was learned.

    Raises:
        UserError: the run kept nothing of its method.
    """
    added = find_added(loaded.model)
    if added is None:
        return restore_method(recipe, tuned, loaded).as_told
    return lambda number: added.telling(number + 1)


def restore_method(recipe: TuneRecipe, tuned: TunedRun, loaded: LoadedModel) -> Method:
    """The method of a finished run, with what it kept, on the tuned model.

    Raises:
        UserError: the run kept nothing.
    """
    planned = {id(parameter) for parameter in match_parameters(loaded.model, tuned.plan.tensor_names).values()}
    model: nn.Module = loaded.model
    trained = {name: value for name, value in model.named_parameters() if id(value) in planned}
    method = build_method(recipe.method or PlainOptions())
    method.prepare(Training(model=model, trained=trained, seed=recipe.seed))
    method.start_next_task(read_memory(Path(recipe.output)))
    return method
