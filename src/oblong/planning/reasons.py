"""Why a tensor was chosen, in plain language."""

from __future__ import annotations

from oblong.planning.candidates import Candidate, Tensor
from oblong.planning.criteria import find_criterion
from oblong.records import Measures, Rule, Status


def describe_choice(tensor: Candidate, rule: Rule, *, rank: int, num_ranked: int) -> str:
    """Such as `3rd lowest kappa of 30 v tensors: 4.1 (null 3.8)`, with remarks on what weakens the number.

    Args:
        tensor: the chosen tensor.
        rule: by which it was chosen.
        rank: its place in its stratum, from 1.
        num_ranked: tensors in that stratum.
    """
    group = f"{num_ranked} {describe_stratum(tensor, rule.within)}"
    if rule.criterion == "random":
        return f"drawn at random (seed {rule.seed}), place {rank} of {group}"
    place = rule.order if rank == 1 else f"{format_ordinal(rank)} {rule.order}"
    sentence = f"{place} {rule.criterion} of {group}: {_describe_value(tensor, rule)}"
    return "; ".join((sentence, *_remark(tensor, rule)))


def describe_stratum(tensor: Tensor, within: str) -> str:
    """The group that a tensor is ranked in: `tensors`, `v tensors`, `tensors of shape 192 x 576`."""
    if within == "role":
        return f"{tensor.role} tensors"
    if within == "shape":
        return f"tensors of shape {format_shape(tensor.shape)}"
    return "tensors"


def format_ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def format_value(value: float) -> str:
    """Three significant digits, or a whole number from 1000 to a million."""
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"


def format_shape(shape: tuple[int, ...]) -> str:
    """192 x 576."""
    return " x ".join(map(str, shape))


def _describe_value(tensor: Candidate, rule: Rule) -> str:
    text = f"layer {tensor.value:.0f}" if rule.criterion == "depth" else format_value(tensor.value)
    measures = tensor.parts[0].measures
    if rule.criterion == "kappa" and len(tensor.parts) == 1 and measures is not None:
        return f"{text} (null {format_value(measures.null_kappa)})"
    return text


def _remark(tensor: Tensor, rule: Rule) -> list[str]:
    remarks = []
    if len(tensor.parts) > 1:
        remarks.append(_describe_parts(tensor))
    if find_criterion(rule.criterion).needs_resolved:
        remarks += _remark_on_storage(tensor)
    ranks = [unit.measures.rank for unit in tensor.parts if unit.status is Status.RANK_DEFICIENT and unit.measures]
    if ranks:
        remarks.append(f"rank deficient: {min(ranks)} non-zero singular values")
    return remarks


def _describe_parts(tensor: Tensor) -> str:
    num_measured = sum(unit.measures is not None for unit in tensor.parts)
    if 0 < num_measured < len(tensor.parts):
        return f"the median of the {num_measured} measured of its {len(tensor.parts)} parts"
    return f"the median of its {len(tensor.parts)} parts"


def _remark_on_storage(tensor: Tensor) -> list[str]:
    unresolved = [
        (unit.dtype, unit.measures) for unit in tensor.parts if unit.measures is not None and not unit.measures.resolved
    ]
    if not unresolved:
        return []
    dtype, measures = unresolved[0]
    if len(tensor.parts) > 1:
        return [f"kappa of {len(unresolved)} of them not resolved by {dtype} storage"]
    return [f"kappa not resolved by {dtype} storage: {_format_interval(measures)}"]


def _format_interval(measures: Measures) -> str:
    high = "no upper limit" if measures.kappa_high is None else format_value(measures.kappa_high)
    return f"[{format_value(measures.kappa_low)}, {high}]"
