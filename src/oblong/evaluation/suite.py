"""A suite of questions with right answers: bundled tasks in this process, all others through lm-eval."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oblong.corpora.questions import BUNDLED_TASKS, expand_suite, read_questions
from oblong.errors import DataError, NonFinitePredictionError
from oblong.evaluation.harness import check_tasks, evaluate_with_harness
from oblong.evaluation.multiple_choice import judge, score_questions
from oblong.models.causal_lm import LoadedModel
from oblong.records import TaskScore

OnProgress = Callable[[int, int], None]


def answer_suite(
    loaded: LoadedModel,
    names: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = 4,
    on_progress: OnProgress | None = None,
) -> dict[str, TaskScore]:
    """Answer every question of the named tasks.

    Args:
        loaded: a causal language model with its tokenizer.
        names: `small` for all bundled tasks, a bundled task, or a task, group or task file (`*.yaml`) of lm-eval.
        limit: the first so many questions of each task.
        batch_size: sequences per forward pass, of lm-eval.
        on_progress: called with the tasks done and their total, between tasks counted in parts.

    Returns:
        One score per task, bundled tasks first.

    Raises:
        DataError: an unknown task, questions that cannot be had here, or that do not fit the model's context.
        MissingExtraError: a task of lm-eval, which is not installed.
        NonFinitePredictionError: the model predicts NaN or infinity.
    """
    tasks = expand_suite(names)
    bundled = [task for task in tasks if task in BUNDLED_TASKS]
    others = [task for task in tasks if task not in BUNDLED_TASKS]
    scores = {}
    for place, task in enumerate(bundled):
        scores[task] = answer_task(
            loaded, task, limit=limit, on_progress=_count_tasks(on_progress, place, len(bundled) + bool(others))
        )
    if others:
        scores |= evaluate_with_harness(loaded, others, limit=limit, batch_size=batch_size)
    return scores


def check_suite(names: Sequence[str]) -> None:
    """Make sure that a suite can be asked, before a model is loaded.

    Raises:
        MissingExtraError: it has tasks of lm-eval, which is not installed.
        DataError: there is no such task.
    """
    others = [task for task in expand_suite(names) if task not in BUNDLED_TASKS]
    if others:
        check_tasks(others)


def answer_task(
    loaded: LoadedModel, task: str, *, limit: int | None = None, on_progress: OnProgress | None = None
) -> TaskScore:
    """Answer the questions of one bundled task; see `answer_suite`."""
    asked = read_questions(task, limit=limit)
    try:
        scores = score_questions(loaded.model, loaded.tokenizer, asked.questions, on_progress=on_progress)
    except DataError as error:
        raise DataError(f"{task}: {error}") from error
    except NonFinitePredictionError as error:
        raise NonFinitePredictionError(f"{task}: {error}") from error
    return TaskScore(
        metric=asked.metric,
        digest=asked.digest,
        chance=asked.chance,
        right=judge(asked.questions, scores, asked.metric),
    )


def _count_tasks(on_progress: OnProgress | None, place: int, num_tasks: int) -> OnProgress | None:
    """Progress in one task as progress over all, in thousandths of a task."""
    if on_progress is None:
        return None
    return lambda done, total: on_progress(1000 * place + 1000 * done // total, 1000 * num_tasks)
