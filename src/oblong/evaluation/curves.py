"""Learning-forgetting curves: what a setting of an arm has learned and forgotten at each state of its training.

Shapes: P points of a curve, S seeds, D documents of the new domain, E of general text, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oblong.errors import DataError
from oblong.evaluation.fronts import Point, interpolate_at_gain
from oblong.evaluation.statistics import PerSeed, check_pairing, collect_nll, collect_tokens

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Scores of one state of a model on two texts.

    Attributes:
        learned: `S x D` scores on the new domain.
        kept: `S x E` scores on general text.
        learned_weights: of the base, `D`: by how much each document counts, with its tokens; None for all alike.
        kept_weights: of the base, `E`.
    """

    learned: PerSeed
    kept: PerSeed
    learned_weights: Array | None = None
    kept_weights: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One setting of an arm along its training.

    Attributes:
        name: of the setting, such as `2e-4`.
        points: the states that were evaluated, in order of training, without the base.
    """

    name: str
    points: Sequence[Texts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """A curve as differences to the base.

    Attributes:
        name: of the setting.
        gains: `P x S x D`, base - state on the new domain, weighted nats.
        forgettings: `P x S x E`, state - base on general text, weighted nats.
        learned_tokens: `D` predicted tokens of the new domain's documents, weighted.
        kept_tokens: `E` predicted tokens of the general documents, weighted.
    """

    name: str
    gains: Array
    forgettings: Array
    learned_tokens: Array
    kept_tokens: Array

    @property
    def num_seeds(self) -> int:
        """Seeds."""
        return int(self.gains.shape[1])

    def per_seed(self) -> tuple[Array, Array]:
        """Gains and forgettings, each `P x S`, nats per token."""
        gains_PS = self.gains.sum(axis=-1) / self.learned_tokens.sum()
        return gains_PS, self.forgettings.sum(axis=-1) / self.kept_tokens.sum()

    def interpolate(self, counts_RD: Array, counts_RE: Array, gain: float) -> Array:
        """Forgetting at a gain in `R` resamples, means over seeds; NaN where it is not reached."""
        forgettings_RP = counts_RE @ self.forgettings.mean(axis=1).T / (counts_RE @ self.kept_tokens)[:, None]
        return interpolate_at_gain(self.resample_gains(counts_RD), forgettings_RP, gain)

    def resample_gains(self, counts_RD: Array) -> Array:
        """Gains in `R` resamples, `R x P`, means over seeds."""
        gains_RP: Array = counts_RD @ self.gains.mean(axis=1).T / (counts_RD @ self.learned_tokens)[:, None]
        return gains_RP

    def linearise(self, gain: float) -> Array:
        """Each seed's forgetting at a gain that the mean over seeds reaches, `S` values whose mean is the mean's.

        f_s - b (g_s - gain),  f_s and g_s interpolated where the mean curve is, b its slope there: a seed that learned
        more than its siblings is expected to have forgotten b times as much more.
        """
        gains_PS, forgettings_PS = (np.vstack([np.zeros(self.num_seeds), values]) for values in self.per_seed())
        gains_P, forgettings_P = gains_PS.mean(axis=1), forgettings_PS.mean(axis=1)
        low = int((gains_P[1:] >= gain).argmax())
        width = gains_P[low + 1] - gains_P[low]
        weight, slope = (gain - gains_P[low]) / width, (forgettings_P[low + 1] - forgettings_P[low]) / width
        found_S, reached_S = (
            (1 - weight) * values[low] + weight * values[low + 1] for values in (forgettings_PS, gains_PS)
        )
        linear_S: Array = found_S - slope * (reached_S - gain)
        return linear_S


def collect_changes(arm: Sequence[Curve], base: Texts) -> list[Changes]:
    """The curves of an arm as differences to the base.

    Args:
        arm: its curves, all with the same seeds.
        base: scores of the base, with one seed.

    Raises:
        DataError: no curve or no point, or evaluations that cannot be paired.
    """
    if not arm or not all(curve.points for curve in arm):
        raise DataError("an arm needs at least one curve, and a curve at least one evaluated state beside the base")
    if len({len(point.learned) for curve in arm for point in curve.points}) > 1:
        raise DataError("every state of an arm must be evaluated with the same seeds")
    return [_subtract(curve, base) for curve in arm]


def list_points(arm: Sequence[Curve], base: Texts) -> tuple[Point, ...]:
    """Gain and forgetting of every state of an arm, means over seeds: for its front and its hypervolume.

    Raises:
        DataError: see `collect_changes`.
    """
    means = [[values.mean(axis=1) for values in changes.per_seed()] for changes in collect_changes(arm, base)]
    return tuple(
        (float(gain), float(forgetting))
        for gains_P, forgettings_P in means
        for gain, forgetting in zip(gains_P, forgettings_P, strict=True)
    )


def _subtract(curve: Curve, base: Texts) -> Changes:
    for point in curve.points:
        check_pairing(point.learned, [*base.learned] * len(point.learned))
        check_pairing(point.kept, [*base.kept] * len(point.kept))
        if len(point.learned) != len(point.kept):
            raise DataError(f"cannot pair {len(point.learned)} runs with {len(point.kept)}: both texts need each seed")
    learned = 1.0 if base.learned_weights is None else base.learned_weights
    kept = 1.0 if base.kept_weights is None else base.kept_weights
    return Changes(
        name=curve.name,
        gains=np.stack([collect_nll(base.learned) - collect_nll(point.learned) for point in curve.points]) * learned,
        forgettings=np.stack([collect_nll(point.kept) - collect_nll(base.kept) for point in curve.points]) * kept,
        learned_tokens=collect_tokens(base.learned[0]) * learned,
        kept_tokens=collect_tokens(base.kept[0]) * kept,
    )
