"""Several questions asked of the same data: p-values that stay honest together."""

from __future__ import annotations

from collections.abc import Sequence


def adjust_holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values so that the chance of even one false rejection among them stays below the level.

    With p_(1) <= ... <= p_(m):   adjusted p_(i) = max over j <= i of  min(1, (m - j + 1) p_(j))

    Rejecting what is adjusted below 0.05 errs anywhere in the family with a probability of at most 0.05, whatever the
    dependence between the tests: arms that share a control and documents are dependent.

    Args:
        p_values: of one family of tests, such as all arms against the control on one corpus.

    Returns:
        Adjusted p-values in the order given.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6(2).
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return tuple(adjusted)
