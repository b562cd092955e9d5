"""What a Plan can rank tensors by: one explicit mapping from name to criterion."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from oblong.errors import SelectionError
from oblong.planning.spectral_criteria import compute_alpha, compute_snr, compute_snr_sqrt_n, read_spectral
from oblong.records import Measures, Scan, Unit

DRAW_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One way to rank units.

    Attributes:
        summary: one line for help texts and error messages.
        compute: value of a unit of a Scan, given the rule's seed; null where the unit has none and so cannot be ranked.
        needs_resolved: whether storage rounding can decide the value, so that unresolved units deserve a remark.
        needs_spectrum: whether the Scan must hold every singular value.
    """

    summary: str
    compute: Callable[[Scan, Unit, int], float | None]
    needs_resolved: bool = False
    needs_spectrum: bool = False


def find_criterion(name: str) -> Criterion:
    """The criterion of this name.

    Raises:
        SelectionError: there is none; the message lists those that exist, one line each.
    """
    if name not in CRITERIA:
        known = "\n".join(f"  {key:<21}{criterion.summary}" for key, criterion in CRITERIA.items())
        raise SelectionError(f"unknown criterion {name!r}; choose one of\n{known}")
    return CRITERIA[name]


def compute_draw(name: str, seed: int, purpose: str = "random") -> float:
    """A uniform number in [0, 1) that depends on nothing but the three arguments.

    Hashing instead of a generator makes a random Plan independent of the order of the Scan and of which other tensors
    take part: the same tensor draws the same number everywhere.

    Args:
        name: tensor name.
        seed: the rule's seed.
        purpose: keeps the draws of different controls with one seed apart.
    """
    state = hashlib.sha256(f"{purpose}\n{seed}\n{name}".encode()).digest()
    # 53 bits, the mantissa of a double: dividing all 64 would round the largest draws up to 1.
    return (int.from_bytes(state[:DRAW_BYTES], "big") >> 11) / (1 << 53)


def _measured(read: Callable[[Measures], float]) -> Callable[[Scan, Unit, int], float | None]:
    """A criterion that is a field of the measures; units without measures have no value."""
    return lambda scan, unit, seed: None if unit.measures is None else read(unit.measures)


def _read_depth(scan: Scan, unit: Unit, seed: int) -> float | None:
    return None if unit.layer is None else float(unit.layer)


def _read_draw(scan: Scan, unit: Unit, seed: int) -> float | None:
    return compute_draw(unit.tensor, seed)


CRITERIA: Final[Mapping[str, Criterion]] = {
    "kappa": Criterion(
        summary="condition number s_1 / s_r; lowest is the paper's choice, mostly decided by shape",
        compute=_measured(lambda measures: measures.kappa),
        needs_resolved=True,
    ),
    "kappa_excess": Criterion(
        summary="ln(kappa / median kappa of a Gaussian matrix of the same shape): kappa with the shape's share removed",
        compute=_measured(lambda measures: measures.kappa_excess),
        needs_resolved=True,
    ),
    "entropy_gap": Criterion(
        summary="max_entropy - entropy, nats; grows with the rank, so large tensors rank high",
        compute=_measured(lambda measures: measures.entropy_gap),
    ),
    "entropy_gap_per_rank": Criterion(
        summary="entropy_gap / rank, nats per singular value: comparable across sizes",
        compute=_measured(lambda measures: measures.entropy_gap / measures.rank),
    ),
    "stable_rank": Criterion(
        summary="||W||_F^2 / s_1^2; high means round, and storage rounding hardly changes it",
        compute=_measured(lambda measures: measures.stable_rank),
    ),
    "snr": Criterion(
        summary="Spectrum's signal-to-noise ratio as its code has it; Spectrum trains the highest within each role",
        compute=read_spectral(compute_snr),
        needs_spectrum=True,
    ),
    "snr_sqrt_n": Criterion(
        summary="the same ratio above the Marchenko-Pastur edge, with the sqrt(n) that Spectrum's threshold lacks",
        compute=read_spectral(compute_snr_sqrt_n),
        needs_spectrum=True,
    ),
    "alpha": Criterion(
        summary="WeightWatcher's power-law exponent of the eigenvalue tail; high means under-trained",
        compute=read_spectral(compute_alpha),
        needs_spectrum=True,
    ),
    "depth": Criterion(
        summary="index of the layer; tensors outside the layers are not ranked",
        compute=_read_depth,
    ),
    "random": Criterion(
        summary="a draw from the seed, the same for a tensor in every Scan",
        compute=_read_draw,
    ),
}
