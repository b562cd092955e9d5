"""What the measures of a sequence of tasks are worth: intervals over documents and seeds.

    interval = estimate +- t * sqrt(V_documents + V_seeds)      (as in `statistics`)

R[i, j] is what was gained on task j after tasks 0 to i, base loss - loss, nats per token. The estimate of a measure is
its mean over seeds.

- V_documents: the documents of each task are resampled, each task's by themselves, the same for all states, seeds and
  arms, and every resample computes its own matrices and measures; forgetting takes its maximum anew. What resampling D
  documents from D underestimates is made up for in each task's gains, which are moved away from their estimate by
  sqrt(D / (D - 1)) (the rescaling of Rao & Wu 1988, J. Am. Stat. Assoc. 83). The degrees of freedom are those of the
  task with the fewest documents.
- V_seeds, from three seeds on: the variance of the seeds' own measures, divided by their number.

A difference to the control is paired: resamples and seeds are subtracted one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from oblong.errors import DataError
from oblong.evaluation.multiplicity import adjust_holm
from oblong.evaluation.statistics import MIN_SEEDS_TO_COUNT, check_pairing, collect_nll, collect_tokens, iter_counts
from oblong.evaluation.statistics import make_interval as make_t_interval
from oblong.evaluation.task_sequences import average_of, backward_transfer_of, forgetting_of, forward_transfer_of
from oblong.records import DocumentScore, Interval, SequenceMeasure, SequenceMeasures

Array = NDArray[np.float64]

NUM_RESAMPLES: Final = 2_000  # the variance is then known to 3 %
MEASURES: Final[Mapping[str, Callable[[Array], Array]]] = {
    "average": average_of,
    "backward_transfer": backward_transfer_of,
    "forward_transfer": forward_transfer_of,
    "forgetting": forgetting_of,
}

Documents = Sequence[DocumentScore]
PerState = Sequence[Sequence[Documents]]
"""`T x T`: after each task, the documents of each task's held-out text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """The matrices R of one arm.

    Attributes:
        estimate: `S x T x T`, by seed.
        resampled: `B x S x T x T`, by resample of the documents and seed.
        num_documents: of the task with the fewest.
    """

    estimate: Array
    resampled: Array
    num_documents: int


def measure_sequences(
    arms: Mapping[str, Sequence[PerState]],
    base: Sequence[Documents],
    *,
    control: str,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, SequenceMeasures]:
    """The measures of every arm, and their differences to the control's, adjusted by Holm over the arms.

    Args:
        arms: by seed, the documents of every task after every task; all arms with the same seeds in the same order.
        base: the documents of every task before the first, `T`.
        control: name of the control; without it among the arms there are no differences.
        seed: of the resampling.
        num_resamples: bootstrap resamples.

    Raises:
        DataError: fewer than two documents in a text, or evaluations that cannot be paired.
    """
    gains = {arm: compute_gains(states, base, seed=seed, num_resamples=num_resamples) for arm, states in arms.items()}
    measured = {name: _measure(gains, measure, control) for name, measure in MEASURES.items()}
    return {arm: SequenceMeasures(**{name: found[arm] for name, found in measured.items()}) for arm in arms}


def compute_gains(seeds: Sequence[PerState], base: Sequence[Documents], *, seed: int, num_resamples: int) -> Gains:
    """The matrices of one arm, and of every resample.

    Raises:
        DataError: see `measure_sequences`.
    """
    estimates, resampled = [], []
    for place, before in enumerate(base):
        after = [state[place] for states in seeds for state in states]
        check_pairing(after, [before] * len(after))
        if len(before) < 2:
            raise DataError("an interval needs at least two documents in each task's text: give more")
        fallen_ND = collect_nll([before]) - collect_nll(after)
        estimate_N, resampled_BN = _resample(fallen_ND, collect_tokens(before), (seed, place), num_resamples)
        estimates.append(estimate_N.reshape(len(seeds), -1))
        resampled.append(resampled_BN.reshape(num_resamples, len(seeds), -1))
    return Gains(
        estimate=np.stack(estimates, axis=-1),
        resampled=np.stack(resampled, axis=-1),
        num_documents=min(map(len, base)),
    )


def _resample(fallen_ND: Array, tokens_D: Array, seed: tuple[int, int], num_resamples: int) -> tuple[Array, Array]:
    """The gains of N states on one text, `N`, and those of every resample, `B x N`, moved apart as said above."""
    num_documents = len(tokens_D)
    estimate_N = fallen_ND.sum(axis=1) / tokens_D.sum()
    counts = iter_counts(num_documents, np.random.default_rng(seed), num_resamples)
    resampled_BN = np.concatenate([(part @ fallen_ND.T) / (part @ tokens_D)[:, None] for part in counts])
    return estimate_N, estimate_N + np.sqrt(num_documents / (num_documents - 1)) * (resampled_BN - estimate_N)


def _measure(gains: Mapping[str, Gains], measure: Callable[[Array], Array], control: str) -> dict[str, SequenceMeasure]:
    """One measure of all arms."""
    estimates = {arm: measure(found.estimate) for arm, found in gains.items()}
    resampled = {arm: measure(found.resampled) for arm, found in gains.items()}
    against = {
        arm: _conclude(estimates[arm] - estimates[control], resampled[arm] - resampled[control], gains[arm])
        for arm in gains
        if control in gains and arm != control
    }
    adjusted = dict(zip(against, adjust_holm([found.p_value or 0.0 for found in against.values()]), strict=True))
    return {
        arm: SequenceMeasure(
            value=_conclude(estimates[arm], resampled[arm], gains[arm]),
            against_control=against.get(arm),
            adjusted_p_value=adjusted.get(arm),
        )
        for arm in gains
    }


def _conclude(estimate_S: Array, resampled_BS: Array, gains: Gains) -> Interval:
    variances = [(float(resampled_BS.mean(axis=1).var()), gains.num_documents - 1)]
    if len(estimate_S) >= MIN_SEEDS_TO_COUNT:
        variances.append((float(estimate_S.var(ddof=1)) / len(estimate_S), len(estimate_S) - 1))
    return make_t_interval(float(estimate_S.mean()), variances, num_resamples=len(resampled_BS), confidence=0.95)
