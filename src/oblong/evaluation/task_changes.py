"""What tuning did to a suite's answers: which were lost, which were gained, and could that be chance?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from scipy.stats import binomtest

from oblong.errors import DataError
from oblong.evaluation.multiplicity import adjust_holm
from oblong.evaluation.statistics import bootstrap_accuracy_change
from oblong.evaluation.transitions import count_transitions
from oblong.records import TaskChange, TaskScore

ALL_TASKS: Final = "all tasks"


def compute_wilson(num_right: int, num_items: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of an accuracy, which stays within 0 and 1 and holds for few items.

    Args:
        num_right: items answered right.
        num_items: all of them.
        confidence: of the interval, between 0 and 1.

    Returns:
        Lower and upper end, 0 to 1.

    Source: Wilson 1927, JASA 22(158).
    """
    interval = binomtest(num_right, num_items).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def compute_task_changes(
    before: Mapping[str, TaskScore], after: Sequence[Mapping[str, TaskScore]], *, arm: str
) -> tuple[TaskChange, ...]:
    """One change per task, and one of all tasks together.

    With one seed the p-value is exact McNemar's; with several, questions are the same under every seed, so the change
    per question is resampled by question (and, from three seeds on, by seed). Holm's family is the tasks of the arm.

    Args:
        before: the base's scores by task.
        after: per seed, the tuned model's scores of the same tasks.
        arm: what the tuned models are called.

    Returns:
        Changes in the order of the tasks; all tasks together last, if there are several.

    Raises:
        DataError: a task that one side lacks, or that asked other questions.
    """
    for scores in after:
        _check_questions(before, scores)
    changes = [
        _compute_change(arm, task, score.right, [scores[task].right for scores in after])
        for task, score in before.items()
    ]
    adjusted = adjust_holm([change.p_value for change in changes])
    changes = [
        change.model_copy(update={"adjusted_p_value": p_value})
        for change, p_value in zip(changes, adjusted, strict=True)
    ]
    if len(changes) > 1:
        tasks = list(before)
        changes.append(
            _compute_change(arm, ALL_TASKS, _join(before, tasks), [_join(scores, tasks) for scores in after])
        )
    return tuple(changes)


def _compute_change(arm: str, task: str, before: Sequence[bool], after: Sequence[Sequence[bool]]) -> TaskChange:
    counts = [count_transitions(before, answers) for answers in after]
    num_changed = sum(count.num_lost + count.num_gained for count in counts)
    difference = bootstrap_accuracy_change(after, before) if num_changed and len(before) > 1 else None
    pooled_p_value = 1.0 if difference is None or difference.p_value is None else difference.p_value
    return TaskChange(
        arm=arm,
        task=task,
        num_seeds=len(after),
        num_kept=sum(count.num_kept for count in counts),
        num_lost=sum(count.num_lost for count in counts),
        num_gained=sum(count.num_gained for count in counts),
        num_missed=sum(count.num_missed for count in counts),
        difference=difference,
        p_value=counts[0].p_value if len(counts) == 1 else pooled_p_value,
    )


def _join(scores: Mapping[str, TaskScore], tasks: Sequence[str]) -> tuple[bool, ...]:
    """Answers of all tasks, one task after the other."""
    return tuple(answer for task in tasks for answer in scores[task].right)


def _check_questions(before: Mapping[str, TaskScore], after: Mapping[str, TaskScore]) -> None:
    if set(before) != set(after):
        raise DataError(f"cannot pair the tasks {_list(before)} with {_list(after)}: evaluate both on the same suite")
    for task, score in before.items():
        if score.digest != after[task].digest or score.metric != after[task].metric:
            raise DataError(
                f"cannot pair the answers to {task}: the questions or the metric differ between the two evaluations;"
                " evaluate both with the same version and the same limit"
            )


def _list(scores: Mapping[str, TaskScore]) -> str:
    return ", ".join(scores) or "(none)"
