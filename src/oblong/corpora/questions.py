"""Questions with right answers: contexts with several continuations, of which one is right.

One JSON object per line in suite/ (sources and licences: SOURCES.md there):

    {"context": "Nairobi is a place in the country of", "choices": [" Kenya", " Peru"], "answer": 0}

A choice begins with the white space that parts it from the context, and no context ends in white space, so that a
choice's tokens are those that the model would read in running text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from oblong.errors import DataError

Metric = Literal["acc", "acc_norm"]
SMALL_SUITE: Final = "small"
SUITE_FOLDER: Final = Path(__file__).parent / "suite"
BUNDLED_TASKS: Final[Mapping[str, Metric]] = {
    "next_sentence": "acc_norm",
    "last_word": "acc",
    "definitions": "acc",
    "cities": "acc",
    "python_next_line": "acc_norm",
    "arithmetic": "acc",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A context, its continuations, and the index of the right one."""

    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSet:
    """The questions of one task.

    Attributes:
        task: its name.
        metric: how an answer is chosen: `acc` takes the likeliest choice, `acc_norm` the likeliest per character, for
            choices of different length.
        questions: in order.
    """

    task: str
    metric: Metric
    questions: tuple[Question, ...]

    @property
    def chance(self) -> float:
        """Accuracy of guessing, 0 to 1."""
        return sum(1 / len(question.choices) for question in self.questions) / len(self.questions)

    @property
    def digest(self) -> str:
        """SHA-256 over the questions in order: equal digests are equal questions."""
        rows = [[question.context, question.choices, question.answer] for question in self.questions]
        return f"sha256:{hashlib.sha256(json.dumps(rows).encode()).hexdigest()}"


def read_questions(task: str, *, limit: int | None = None) -> QuestionSet:
    """Read a bundled task.

    Args:
        task: one of `BUNDLED_TASKS`.
        limit: keep the first so many questions.

    Raises:
        DataError: no bundled task has this name.
    """
    if task not in BUNDLED_TASKS:
        raise DataError(f"no bundled task is called {task!r}; there are {', '.join(BUNDLED_TASKS)}")
    lines = (SUITE_FOLDER / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    questions = tuple(
        Question(context=row["context"], choices=tuple(row["choices"]), answer=row["answer"])
        for row in map(json.loads, lines[:limit])
    )
    return QuestionSet(task=task, metric=BUNDLED_TASKS[task], questions=questions)


def load_harness_dataset(*, task: str, **_metadata: object) -> dict[str, Any]:
    """The questions of a bundled task as lm-eval wants them; the task files in suite/ name this function.

    Args:
        task: one of `BUNDLED_TASKS`.
        _metadata: what lm-eval passes along, its task's version among it.

    Returns:
        A `datasets.Dataset` under the name of its split, `test`.
    """
    from datasets import Dataset  # slow to import, and needed by lm-eval only

    return {"test": Dataset.from_list([asdict(question) for question in read_questions(task).questions])}


def parse_suite(text: str) -> tuple[str, ...]:
    """Task names out of `small` or `hellaswag,arc_easy`.

    Raises:
        DataError: there is no name in it.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise DataError("the suite names no task: give `small`, or tasks of lm-eval with commas between them")
    return names


def expand_suite(names: Sequence[str]) -> tuple[str, ...]:
    """Task names in order, each once; `small` stands for all bundled tasks."""
    expanded = [task for name in names for task in (BUNDLED_TASKS if name == SMALL_SUITE else (name,))]
    return tuple(dict.fromkeys(expanded))
