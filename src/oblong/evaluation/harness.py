"""Tasks of lm-evaluation-harness (HellaSwag, ARC, WinoGrande, GSM8K, MMLU, ...), item by item, on a model in memory.

The harness fetches its questions from the Hub, or finds them in the cache of `datasets`; no code of a dataset runs. A
task file of the user's own may name Python functions beside it, which the harness calls. Its scores are taken as they
are: `acc_norm` where a task has it, else `acc`, else `exact_match`, through the task's first filter.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from oblong.errors import DataError, MissingExtraError
from oblong.models.added_modules import find_added
from oblong.models.causal_lm import LoadedModel, first_line
from oblong.records import TaskScore

METRICS: Final = ("acc_norm", "acc", "exact_match")
HARNESS_LOGGERS: Final = ("lm_eval", "datasets", "httpx")
TASK_FILE_SUFFIXES: Final = (".yaml", ".yml")
HUB_SECONDS: Final = 10.0  # huggingface_hub's own patience with one request


def evaluate_with_harness(
    loaded: LoadedModel, tasks: Sequence[str], *, limit: int | None = None, batch_size: int = 4
) -> dict[str, TaskScore]:
    """Answer the questions of tasks of lm-eval, with the number of worked examples that each task prescribes.

    Args:
        loaded: a causal language model with its tokenizer.
        tasks: names or groups as `lm-eval ls tasks` prints them, or task files (`*.yaml`) in lm-eval's format; a group
            such as `mmlu` gives one score per task in it.
        limit: the first so many questions of each task.
        batch_size: sequences per forward pass.

    Returns:
        One score per task; its digest covers every prompt and target.

    Raises:
        MissingExtraError: lm-eval is not installed.
        DataError: an unknown task, one whose questions cannot be had here, or one that has no right and wrong answers.
    """
    check_tasks(tasks)
    manager = _load_manager()
    samples = _run(loaded, tasks, manager, limit=limit, batch_size=batch_size)
    return {task: make_score(task, answers) for task, answers in samples.items()}


def check_tasks(tasks: Sequence[str]) -> None:
    """Whether there are such tasks, before a model runs.

    Raises:
        MissingExtraError: lm-eval is not installed.
        DataError: there is not.
    """
    manager = _load_manager()
    for task in tasks:
        _check_task(task, manager)


@cache
def _load_manager() -> Any:
    """The list of lm-eval's tasks, which takes seconds to read."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise MissingExtraError("a suite of lm-eval's tasks", "lm-eval") from None
    return TaskManager()


def _check_task(task: str, manager: Any) -> None:
    if not task.endswith(TASK_FILE_SUFFIXES):
        if task not in manager.all_tasks:
            raise DataError(
                f"no task is called {task!r}: choose `small`, a name from `lm-eval ls tasks`, or a task file (*.yaml)"
            )
        return
    try:
        text = Path(task).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{task}: cannot be read as a task file: {first_line(error)}") from error
    if re.search(r"^(task|group):", text, re.MULTILINE) is None:
        raise DataError(f"{task}: is no task file of lm-eval: it names no `task`")


def _run(
    loaded: LoadedModel, tasks: Sequence[str], manager: Any, *, limit: int | None, batch_size: int
) -> Mapping[str, Any]:
    """Answers by task, as lm-eval logs them."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    with _quiet(), _offline_if_unreachable():
        # The harness pads without a mask, and padding would have a say in which added module answers.
        rows = batch_size if find_added(loaded.model) is None else 1
        model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=rows)
        try:
            result = simple_evaluate(
                model=model, tasks=list(tasks), limit=limit, task_manager=manager, bootstrap_iters=0, log_samples=True
            )
        except (OSError, ValueError, yaml.YAMLError) as error:  # the Hub's and the cache's errors are of the first two
            raise DataError(
                f"the questions of {', '.join(tasks)} could not be loaded: {first_line(error)}. They come from the Hub:"
                " run once where it can be reached, or bring a filled Hugging Face cache (HF_HOME); `--suite small`"
                " needs no network"
            ) from error
    samples: Mapping[str, Any] = result["samples"]
    return samples


def make_score(task: str, answers: Sequence[Mapping[str, Any]]) -> TaskScore:
    """One task's score from the answers that lm-eval logged.

    Raises:
        DataError: the task measures no right and wrong answers.
    """
    first = answers[0]
    metric = next((name for name in METRICS if name in first["metrics"]), None)
    if metric is None:
        raise DataError(
            f"{task} measures {', '.join(first['metrics'])}, not right and wrong answers: choose a task that has one of"
            f" {', '.join(METRICS)}"
        )
    chosen = sorted((item for item in answers if item["filter"] == first["filter"]), key=lambda item: item["doc_id"])
    hashes = "".join(f"{item['doc_hash']}{item['prompt_hash']}{item['target_hash']}" for item in chosen)
    num_choices = [len(item["arguments"]) for item in chosen]
    return TaskScore(
        metric=metric if first["filter"] == "none" else f"{metric}, {first['filter']}",
        digest=f"sha256:{hashlib.sha256(hashes.encode()).hexdigest()}",
        chance=sum(1 / count for count in num_choices) / len(chosen) if min(num_choices) > 1 else None,
        right=tuple(bool(item[metric]) for item in chosen),
    )


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Offline mode where the Hub does not answer one request, so that the cache is asked at once.

    Online, every data set of a task (`mmlu` has 57) would first be asked for six times, with half a minute of pauses.
    """
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not any(before) and not _hub_answers():
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _hub_answers() -> bool:
    """Whether the Hub, or the mirror that HF_ENDPOINT names, answers at all."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import HfHubHTTPError

    # The HTTP library (httpx or httpx2, by version) is found through the base of the Hub's own error.
    transport_error: type[BaseException] = HfHubHTTPError.__bases__[0]
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except (transport_error, OSError):
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness and what it loads without their notes and bars."""
    import datasets

    loggers = [logging.getLogger(name) for name in HARNESS_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
