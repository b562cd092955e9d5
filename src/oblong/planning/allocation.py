"""Ranking candidates within strata, and spending a budget on them.

1. Tensors are ranked within their stratum (the whole model, a role, a shape) by value, ties by name. `highest` is
   exactly the reverse of `lowest`.
2. Each stratum gets the same share of the budget as it has of all that could be chosen, in the budget's own unit.
   Walking down its ranking, a tensor is taken if it fits in what is left of its stratum's share and passed over if
   not, so a large tensor does not end the walk.
3. What the strata could not use goes to the strata whose next tensor came closest to being earned, at most one tensor
   each, as in apportioning seats by the largest remainder.

The budget is never exceeded, and no stratum by more than one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from oblong.planning.candidates import Candidate, Pool
from oblong.planning.reasons import format_shape
from oblong.records import Budget, Rule

Strata = Mapping[str, Sequence[Candidate]]
"""Ranked candidates by stratum, strata in name order."""


def rank_strata(pool: Pool, rule: Rule) -> Strata:
    """Rank the pool within each stratum, the preferred tensor first."""
    strata: dict[str, list[Candidate]] = {}
    for tensor in pool.candidates:
        strata.setdefault(name_stratum(tensor, rule.within), []).append(tensor)
    return {
        key: sorted(members, key=rank_key, reverse=rule.order == "highest") for key, members in sorted(strata.items())
    }


def rank_key(tensor: Candidate) -> tuple[float, str]:
    """Value, then name, so that ties do not depend on the order of the Scan."""
    return (tensor.value, tensor.name)


def name_stratum(tensor: Candidate, within: str) -> str:
    """The stratum of a tensor: its role, its shape, or the whole model."""
    return {"role": tensor.role, "shape": format_shape(tensor.shape)}.get(within, "model")


def spend_budget(strata: Strata, budget: Budget) -> frozenset[str]:
    """Names of the chosen tensors: each stratum its share, then the remainders (module docstring)."""
    weigh = weigh_by(budget.unit)
    sizes = {key: sum(map(weigh, members)) for key, members in strata.items()}
    shares = {key: Fraction(budget.amount * size, sum(sizes.values())) for key, size in sizes.items()}
    taken = {key: take_fitting(members, int(shares[key]), weigh) for key, members in strata.items()}
    unused = {key: shares[key] - sum(map(weigh, members)) for key, members in taken.items()}
    chosen = frozenset(tensor.name for members in taken.values() for tensor in members)
    rests = {key: [tensor for tensor in members if tensor.name not in chosen] for key, members in strata.items()}
    return chosen | _spend_remainders(rests, unused, weigh)


def take_fitting(ranked: Sequence[Candidate], limit: int, weigh: Callable[[Candidate], int]) -> list[Candidate]:
    """Walk down a ranking and take every tensor that still fits."""
    taken = []
    for tensor in ranked:
        if weigh(tensor) <= limit:
            taken.append(tensor)
            limit -= weigh(tensor)
    return taken


def weigh_by(unit: str) -> Callable[[Candidate], int]:
    """What a tensor costs in a budget's unit."""
    return (lambda tensor: 1) if unit == "tensors" else (lambda tensor: tensor.num_parameters)


def _spend_remainders(
    rests: Strata, unused: Mapping[str, Fraction], weigh: Callable[[Candidate], int]
) -> frozenset[str]:
    """Names of at most one more tensor per stratum, those first that came closest to being earned."""
    left = sum(unused.values(), Fraction(0))
    earned = {key: unused[key] / weigh(rest[0]) for key, rest in rests.items() if rest}
    extra = set()
    for key in sorted(earned, key=lambda key: (-earned[key], key)):
        tensor = next((tensor for tensor in rests[key] if weigh(tensor) <= left), None)
        if tensor is not None:
            extra.add(tensor.name)
            left -= weigh(tensor)
    return frozenset(extra)
