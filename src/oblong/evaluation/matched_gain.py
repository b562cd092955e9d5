"""Forgetting at the same gain: what an arm forgets by the time it has learned a given amount.

An arm is a family of curves through (gain, forgetting), one for each learning rate, each measured at several states of
training. Along a curve forgetting is interpolated linearly to where the gain is first reached; of the curves that reach
it the one that forgets least stands for the arm. An arm none of whose curves gets there is *not reached*: it is never
extrapolated.

    interval = estimate +- t * sqrt(V_documents + V_seeds)      (as in `statistics`)

- V_documents: the documents of both texts are resampled, the same for all arms, and every resample interpolates and
  chooses its learning rate anew. Where more than 2.5 % of the resamples of a 95 % interval do not reach the gain there
  is no interval: the arm is *unsure*, too close to the end of its curves.
- V_seeds, from three seeds on: the spread over seeds of `Changes.linearise`, the delta method of inverse regression.

The best of several noisy curves looks a little better than it is. Arms with equally many curves share that bias, so
sweep the learning rate alike for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from oblong.errors import DataError
from oblong.evaluation.curves import Array, Changes, Curve, Texts, collect_changes
from oblong.evaluation.multiplicity import adjust_holm
from oblong.evaluation.statistics import MIN_SEEDS_TO_COUNT, iter_counts, make_interval
from oblong.records import AtGain, Reach

SHARE_COMPARABLE: Final = 0.99  # a little more than an interval needs, (1 + 0.95) / 2
NUM_RESAMPLES: Final = 2_000  # each interpolates every curve; the variance is then known to 3 %


def measure_at_gain(
    arm: Sequence[Curve],
    base: Texts,
    *,
    gain: float,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
) -> AtGain:
    """What an arm has forgotten when it has learned `gain`.

    Args:
        arm: its curves.
        base: scores of the base, with one seed.
        gain: fall of the loss on the new domain, nats per token, above 0.
        seed: of the resampling.
        num_resamples: bootstrap resamples.
        confidence: of the interval, between 0 and 1.

    Raises:
        DataError: no curve or point, fewer than two documents, evaluations that cannot be paired, or a gain of 0.
    """
    return _conclude([(1, collect_changes(arm, base))], gain, seed, num_resamples, confidence)


def compare_at_gain(
    arm: Sequence[Curve],
    control: Sequence[Curve],
    base: Texts,
    *,
    gain: float,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
) -> AtGain:
    """How much more an arm has forgotten than the control, each when it has learned `gain`.

    Paired: both are resampled together, and seeds are subtracted one by one.

    Args:
        arm: its curves.
        control: those of the other arm, with the same seeds in the same order.
        base: scores of the base, with one seed.
        gain: fall of the loss on the new domain, nats per token, above 0.
        seed: of the resampling.
        num_resamples: bootstrap resamples.
        confidence: of the interval, between 0 and 1.

    Raises:
        DataError: see `measure_at_gain`; or the arms have other numbers of seeds.
    """
    sides = [(1, collect_changes(arm, base)), (-1, collect_changes(control, base))]
    num_seeds = [curves[0].num_seeds for _, curves in sides]
    if num_seeds[0] != num_seeds[1]:
        raise DataError(f"cannot pair {num_seeds[0]} runs with {num_seeds[1]}: both arms need the same seeds")
    return _conclude(sides, gain, seed, num_resamples, confidence)


def compare_all_at_gain(
    arms: Mapping[str, Sequence[Curve]],
    base: Texts,
    *,
    control: str,
    gain: float,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, AtGain]:
    """Every arm against the control at one gain, with p-values adjusted by Holm over the arms that have one.

    Args:
        arms: curves by arm, the control's among them; all with the same seeds in the same order.
        base: scores of the base, with one seed.
        control: name of the control.
        gain: nats per token; see `find_common_gain`.
        seed: of the resampling.
        num_resamples: bootstrap resamples.

    Raises:
        DataError: see `compare_at_gain`.
    """
    found = {
        name: compare_at_gain(curves, arms[control], base, gain=gain, seed=seed, num_resamples=num_resamples)
        for name, curves in arms.items()
        if name != control
    }
    p_values = {name: at.forgetting.p_value for name, at in found.items() if at.forgetting is not None}
    adjusted = adjust_holm([p_value for p_value in p_values.values() if p_value is not None])
    return found | {
        name: found[name].model_copy(update={"adjusted_p_value": p_value})
        for name, p_value in zip(p_values, adjusted, strict=True)
    }


def find_common_gain(
    arms: Sequence[Sequence[Curve]], base: Texts, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> float | None:
    """The largest gain at which all arms can be compared: where nearly every resample of the documents has them all.

    Args:
        arms: the curves of each arm; see `measure_at_gain`.
        base: scores of the base.
        seed: of the resampling; the resamples are those that an interval with the same seed rests on.
        num_resamples: how many.

    Returns:
        The gain, nats per token, that the smallest of the arms' largest gains exceeds in 99 % of the resamples; null if
        that is none.

    Raises:
        DataError: see `collect_changes`.
    """
    collected = [collect_changes(arm, base) for arm in arms]
    counts_RD, _ = _draw_counts(collected[0][0], seed, num_resamples)
    largest_AR = [np.max([curve.resample_gains(counts_RD).max(axis=1) for curve in arm], axis=0) for arm in collected]
    gain = float(np.quantile(np.min(largest_AR, axis=0), 1 - SHARE_COMPARABLE))
    # A hair less: where all documents gain the same, rounding must not decide who gets there.
    return gain * (1 - 1e-9) if gain > 0 else None


Sides = Sequence[tuple[int, Sequence[Changes]]]
"""Signs and curves: the answer is the signed sum of the arms' forgetting."""


def _conclude(sides: Sides, gain: float, seed: int, num_resamples: int, confidence: float) -> AtGain:
    counts_RD, counts_RE = _draw_counts(sides[0][1][0], seed, num_resamples)
    once_D, once_E = np.ones_like(counts_RD[:1]), np.ones_like(counts_RE[:1])
    estimate = float(_sum_sides(sides, once_D, once_E, gain)[0])
    resamples_R = _sum_sides(sides, counts_RD, counts_RE, gain)
    found_R = resamples_R[np.isfinite(resamples_R)]
    share = len(found_R) / num_resamples
    if not np.isfinite(estimate):
        return AtGain(gain=gain, reach=Reach.NOT_REACHED, share_reached=share)
    if share < (1 + confidence) / 2:
        return AtGain(gain=gain, reach=Reach.UNSURE, share_reached=share)
    best = [(sign, _choose(curves, once_D, once_E, gain)) for sign, curves in sides]
    num_documents = min(counts_RD.shape[1], counts_RE.shape[1])
    by_documents = (float(found_R.var()) * num_documents / (num_documents - 1), num_documents - 1)
    return AtGain(
        gain=gain,
        reach=Reach.REACHED,
        share_reached=share,
        forgetting=make_interval(
            estimate, [by_documents, *_vary_seeds(best, gain)], num_resamples=num_resamples, confidence=confidence
        ),
        settings=tuple(curve.name for _, curve in best),
    )


def _draw_counts(changes: Changes, seed: int, num_resamples: int) -> tuple[Array, Array]:
    """How often each document of either text occurs in each resample, `R x D` and `R x E`."""
    sizes = len(changes.learned_tokens), len(changes.kept_tokens)
    if min(sizes) < 2:
        raise DataError("an interval needs at least two documents of each text, since documents are what is resampled")
    generator = np.random.default_rng(seed)
    drawn = [np.concatenate(list(iter_counts(size, generator, num_resamples))) for size in sizes]
    return drawn[0].astype(np.float64), drawn[1].astype(np.float64)


def _sum_sides(sides: Sides, counts_RD: Array, counts_RE: Array, gain: float) -> Array:
    """The signed sum in every resample, `R`; NaN where an arm does not reach the gain."""
    total_R: Array = np.zeros(len(counts_RD))
    for sign, curves in sides:
        found_CR = np.stack([curve.interpolate(counts_RD, counts_RE, gain) for curve in curves])
        total_R += sign * np.fmin.reduce(found_CR, axis=0)
    return total_R


def _choose(curves: Sequence[Changes], once_D: Array, once_E: Array, gain: float) -> Changes:
    """The curve that forgets least at a gain that one of them reaches."""
    found = [float(curve.interpolate(once_D, once_E, gain)[0]) for curve in curves]
    return curves[int(np.nanargmin(found))]


def _vary_seeds(best: Sequence[tuple[int, Changes]], gain: float) -> list[tuple[float, int]]:
    """Variance between seeds with its degrees of freedom, where there are enough of them."""
    num_seeds = best[0][1].num_seeds
    if num_seeds < MIN_SEEDS_TO_COUNT:
        return []
    linear_S = np.sum([sign * curve.linearise(gain) for sign, curve in best], axis=0)
    return [(float(linear_S.var(ddof=1)) / num_seeds, num_seeds - 1)]
