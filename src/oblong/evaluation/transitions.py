"""Items that a model answers right or wrong, before and after: which were lost, which were gained, and is it chance?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import bdtr

from oblong.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """The same items answered twice; an accuracy that stays the same can hide as many losses as gains.

    Attributes:
        num_kept: right before and after.
        num_lost: right before, wrong after: what was forgotten.
        num_gained: wrong before, right after: what was learned.
        num_missed: wrong before and after.
    """

    num_kept: int
    num_lost: int
    num_gained: int
    num_missed: int

    @property
    def num_items(self) -> int:
        """All of them."""
        return self.num_kept + self.num_lost + self.num_gained + self.num_missed

    @property
    def change(self) -> float:
        """Accuracy after - accuracy before, -1 to 1."""
        return (self.num_gained - self.num_lost) / self.num_items

    @property
    def lost_share(self) -> float:
        """Share of all items that went from right to wrong, 0 to 1."""
        return self.num_lost / self.num_items

    @property
    def gained_share(self) -> float:
        """Share of all items that went from wrong to right, 0 to 1."""
        return self.num_gained / self.num_items

    @property
    def p_value(self) -> float:
        """Exact McNemar test of equal accuracy."""
        return compute_mcnemar(self.num_lost, self.num_gained)


def count_transitions(before: Sequence[bool], after: Sequence[bool]) -> Transitions:
    """Count what became of every item.

    Args:
        before: `N` answers of one model, right or wrong.
        after: `N` answers of another to the same items in the same order.

    Raises:
        DataError: no items, or not the same number of them.
    """
    if not before or len(before) != len(after):
        raise DataError(f"cannot pair {len(before)} items with {len(after)}: both models need the same items, in order")
    counts = Counter(zip(map(bool, before), map(bool, after), strict=True))
    return Transitions(
        num_kept=counts[True, True],
        num_lost=counts[True, False],
        num_gained=counts[False, True],
        num_missed=counts[False, False],
    )


def compute_mcnemar(num_lost: int, num_gained: int) -> float:
    """Exact two-sided McNemar test: were right -> wrong and wrong -> right equally likely?

    p = min(1, 2 P(X <= min(lost, gained))),   X ~ Binomial(lost + gained, 1/2)

    Items that did not change say nothing about that and do not enter. Items of one cluster (several questions about
    one passage) are no independent items: bootstrap those by cluster with `bootstrap_ratio`.

    Args:
        num_lost: items right before and wrong after.
        num_gained: items wrong before and right after.

    Returns:
        p-value; 1 where nothing changed.

    Source: McNemar 1947, Psychometrika 12(2); the exact form as in Fagerland et al. 2013, BMC Med. Res. Methodol. 13.
    """
    return min(1.0, 2 * float(bdtr(min(num_lost, num_gained), num_lost + num_gained, 0.5)))
