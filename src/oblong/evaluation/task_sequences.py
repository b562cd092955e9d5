"""Measures of a sequence of tasks, from the matrix of scores after each of them.

R[i, j] is the score on task j after training on tasks 0 ... i, one after the other; T tasks, i and j from 0. Scores are
such that higher is better: accuracies, or losses with their sign turned. The formulas of the papers count from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oblong.errors import DataError

Array = NDArray[np.float64]
Matrix = Sequence[Sequence[float]]
"""`T x T` scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSummary:
    """The measures of one sequence, in the unit of its scores; see the functions of these names."""

    average: float
    backward_transfer: float
    forward_transfer: float | None
    forgetting: float


def summarise_sequence(scores: Matrix, before: Sequence[float] | None = None) -> SequenceSummary:
    """All measures of a sequence of tasks.

    Args:
        scores: `T x T` matrix R, at least 2 x 2.
        before: `T` scores of the model before the first task; without them forward transfer is null.

    Raises:
        DataError: not a square matrix of at least two tasks, or scores that are not finite.
    """
    return SequenceSummary(
        average=compute_average(scores),
        backward_transfer=compute_backward_transfer(scores),
        forward_transfer=None if before is None else compute_forward_transfer(scores, before),
        forgetting=compute_forgetting(scores),
    )


def compute_average(scores: Matrix) -> float:
    """Average score over all tasks at the end of the sequence (with accuracies: ACC).

    ACC = 1/T sum_j R[T-1, j]

    Args:
        scores: `T x T` matrix R.

    Raises:
        DataError: see `summarise_sequence`.

    Source: Lopez-Paz & Ranzato 2017, arXiv:1706.08840, Eq. 2.
    """
    return float(average_of(_check(scores)))


def compute_backward_transfer(scores: Matrix) -> float:
    """What later tasks did to earlier ones; negative is forgetting.

    BWT = 1/(T-1) sum_{j < T-1} R[T-1, j] - R[j, j]

    Args:
        scores: `T x T` matrix R.

    Raises:
        DataError: see `summarise_sequence`.

    Source: Lopez-Paz & Ranzato 2017, arXiv:1706.08840, Eq. 3.
    """
    return float(backward_transfer_of(_check(scores)))


def compute_forward_transfer(scores: Matrix, before: Sequence[float]) -> float:
    """What earlier tasks did for later ones that were not trained yet; positive is help.

    FWT = 1/(T-1) sum_{j > 0} R[j-1, j] - b[j]

    The paper's b is the score at random initialisation; here it is that of the pre-trained model, which is where the
    sequence starts.

    Args:
        scores: `T x T` matrix R.
        before: `T` scores b before the first task.

    Raises:
        DataError: see `summarise_sequence`; or another number of scores in `before`.

    Source: Lopez-Paz & Ranzato 2017, arXiv:1706.08840, Eq. 4.
    """
    matrix_TT = _check(scores)
    before_T = np.asarray(before, dtype=np.float64)
    if before_T.shape != matrix_TT.shape[:1] or not np.isfinite(before_T).all():
        raise DataError(f"forward transfer needs one finite score per task from before: {len(matrix_TT)} of them")
    return float(forward_transfer_of(matrix_TT - before_T))


def compute_forgetting(scores: Matrix) -> float:
    """How far each task has fallen from the best that it ever was; above 0 is forgetting.

    F = 1/(T-1) sum_{j < T-1}  max_{i < T-1} R[i, j] - R[T-1, j]

    Unlike backward transfer it also sees a task that later ones first improved and then damaged. It is negative where
    a task ends above all it was.

    Args:
        scores: `T x T` matrix R.

    Raises:
        DataError: see `summarise_sequence`.

    Source: Chaudhry et al. 2018, arXiv:1801.10112, Eq. 3.
    """
    return float(forgetting_of(_check(scores)))


# --- for many matrices at once, such as bootstrap resamples: `... x T x T` scores to `...` values --------------------


def average_of(scores: Array) -> Array:
    """See `compute_average`."""
    return np.asarray(scores[..., -1, :].mean(axis=-1))


def backward_transfer_of(scores: Array) -> Array:
    """See `compute_backward_transfer`."""
    learned = np.diagonal(scores, axis1=-2, axis2=-1)
    return np.asarray((scores[..., -1, :] - learned)[..., :-1].mean(axis=-1))


def forward_transfer_of(scores: Array) -> Array:
    """See `compute_forward_transfer`; scores are relative to those before the first task."""
    return np.asarray(np.diagonal(scores, offset=1, axis1=-2, axis2=-1).mean(axis=-1))


def forgetting_of(scores: Array) -> Array:
    """See `compute_forgetting`."""
    best = scores[..., :-1, :].max(axis=-2)
    return np.asarray((best - scores[..., -1, :])[..., :-1].mean(axis=-1))


def _check(scores: Matrix) -> Array:
    num_tasks = len(scores)
    if num_tasks < 2 or any(len(row) != num_tasks for row in scores):
        raise DataError("a sequence needs a square matrix of scores, after each of at least two tasks on each of them")
    matrix_TT = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(matrix_TT).all():
        raise DataError("a score of the sequence is not a finite number: evaluate every task after every task")
    return matrix_TT
