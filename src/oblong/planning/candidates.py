"""Which tensors a Plan may choose from, and their values: a Scan's units gathered to whole tensors.

A tensor trains whole or not at all, but a Scan measures the parts of a fused tensor (q, k and v in one; the experts)
one by one. A fused tensor is ranked by the *median* of its parts' values, of those that have one: the same number under
either order, so that the lowest and the highest choice stay opposites, and not ruled by one odd part as the minimum,
maximum or mean would be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Final

from oblong.errors import SelectionError
from oblong.planning.criteria import find_criterion
from oblong.planning.spectral_criteria import check_spectrum
from oblong.records import HEAD_ROLES, Measures, Rule, Scan, Status, Unit

# Nothing sensible can train here, whatever the rule says: no storage of its own, no weights, or not to be touched.
UNTRAINABLE: Final = frozenset({Status.TIED, Status.EMPTY, Status.NOT_FLOAT, Status.NON_FINITE, Status.EXCLUDED})

REPORTED_MEASURES: Final[Mapping[str, Callable[[Measures], float]]] = {
    "kappa": lambda measures: measures.kappa,
    "kappa_excess": lambda measures: measures.kappa_excess,
    "entropy_gap": lambda measures: measures.entropy_gap,
    "stable_rank": lambda measures: measures.stable_rank,
}


@dataclass(frozen=True)
class Tensor:
    """A whole tensor of the checkpoint with its measured units, which are its parts if it is fused.

    Attributes:
        name: in the checkpoint.
        units: at least one, in order of their part's name.
    """

    name: str
    units: tuple[Unit, ...]

    @cached_property
    def parts(self) -> tuple[Unit, ...]:
        """The units that are parts, or the one unit that is the tensor."""
        return tuple(unit for unit in self.units if unit.part is not None) or self.units

    @property
    def role(self) -> str:
        """Role of the tensor; of a fused one without a row of its own, its parts' roles joined by `+`."""
        return "+".join(dict.fromkeys(unit.role for unit in self._described))

    @property
    def layer(self) -> int | None:
        """Index of the layer."""
        return self.units[0].layer

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor as stored."""
        first = self._described[0]
        return first.tensor_shape or first.shape

    @property
    def num_parameters(self) -> int:
        """Elements of the whole tensor."""
        return sum(unit.num_parameters for unit in self._described)

    @property
    def digest(self) -> str | None:
        """SHA-256 of its stored bytes."""
        return self.units[0].digest

    @property
    def eligible(self) -> bool:
        """Whether every part of it is."""
        return all(unit.eligible for unit in self.units)

    @property
    def trainable(self) -> bool:
        """Whether training it makes sense at all."""
        return self.num_parameters > 0 and all(unit.status not in UNTRAINABLE for unit in self.units)

    def summarise_measures(self) -> dict[str, float | None]:
        """Measures for the Plan; medians over the parts of a fused tensor."""
        return {name: median_or_none([read_measure(unit, name) for unit in self.parts]) for name in REPORTED_MEASURES}

    @property
    def _described(self) -> tuple[Unit, ...]:
        """The row of the whole tensor where the Scan has one, else the parts."""
        return tuple(unit for unit in self.units if unit.part is None) or self.units


@dataclass(frozen=True)
class Candidate(Tensor):
    """A tensor that a rule may choose.

    Attributes:
        value: the criterion's, by which it is ranked.
    """

    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What a rule chooses from.

    Attributes:
        candidates: eligible tensors that have a value, in name order.
        notes: what was left out, and why.
    """

    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]

    @property
    def num_parameters(self) -> int:
        """Parameters of all that can be chosen."""
        return sum(candidate.num_parameters for candidate in self.candidates)


def collect_pool(scan: Scan, rule: Rule) -> Pool:
    """Gather the tensors that `rule` may choose.

    Raises:
        SelectionError: there are none, or the criterion needs singular values that the Scan does not hold.
    """
    if find_criterion(rule.criterion).needs_spectrum:
        check_spectrum(scan, rule.criterion)
    admitted = [
        tensor for tensor in _gather_tensors(scan) if tensor.trainable and (tensor.eligible or rule.include_ineligible)
    ]
    valued = [(tensor, _compute_value(scan, tensor, rule)) for tensor in admitted]
    candidates = [Candidate(tensor.name, tensor.units, value) for tensor, value in valued if value is not None]
    notes = _explain_omissions(scan, rule, [tensor for tensor, value in valued if value is None])
    if not candidates:
        reason = (
            "; ".join(notes) or "the Scan has no eligible tensor; `oblong plan --include-ineligible` admits the others"
        )
        raise SelectionError(f"no tensor can be ranked by {rule.criterion}: {reason}")
    return Pool(candidates=tuple(candidates), notes=notes)


def read_measure(unit: Unit, name: str) -> float | None:
    """One reported measure of a unit; null where it was not measured."""
    return None if unit.measures is None else REPORTED_MEASURES[name](unit.measures)


def median_or_none(values: Sequence[float | None]) -> float | None:
    """Median of the values that are there; null if none is."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _gather_tensors(scan: Scan) -> list[Tensor]:
    """Whole tensors in name order, so that nothing later depends on the order of the Scan."""
    groups: dict[str, list[Unit]] = {}
    for unit in scan:
        if unit.role not in HEAD_ROLES:
            groups.setdefault(unit.tensor, []).append(unit)
    return [
        Tensor(name, tuple(sorted(units, key=lambda unit: unit.part or ""))) for name, units in sorted(groups.items())
    ]


def _compute_value(scan: Scan, tensor: Tensor, rule: Rule) -> float | None:
    compute = find_criterion(rule.criterion).compute
    return median_or_none([compute(scan, unit, rule.seed) for unit in tensor.parts])


def _explain_omissions(scan: Scan, rule: Rule, valueless: Sequence[Tensor]) -> tuple[str, ...]:
    """Notes on tensors that a reader would expect in the ranking: broken, excluded, or without a value."""
    omitted = {(unit.tensor, unit.status) for unit in scan if unit.status in (Status.NON_FINITE, Status.EXCLUDED)}
    causes = Counter(status for _, status in omitted)
    notes = [f"not considered: {_count(number)} ({status.explanation})" for status, number in sorted(causes.items())]
    if valueless:
        statuses = ", ".join(sorted({unit.status.value for tensor in valueless for unit in tensor.parts}))
        examples = ", ".join(tensor.name for tensor in valueless[:3])
        notes.append(f"no {rule.criterion}, so not ranked: {_count(len(valueless))} ({statuses}), such as {examples}")
    return tuple(notes)


def _count(number: int) -> str:
    return f"{number} tensor{'' if number == 1 else 's'}"
