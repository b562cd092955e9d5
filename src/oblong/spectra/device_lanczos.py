"""Lanczos for a whole stack of operators at once, on the device; the same starts, limits and test as lanczos.py.

Two products at a time, one for each start, so that the matrices are read once for both. Only the band of the projected
matrix comes to the host, at the checks: four numbers per member and product. Members that have converged go on with
the others, which changes nothing about what was taken from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from oblong.spectra.lanczos import (
    BREAKDOWN,
    CHECK_GROWTH,
    FIRST_CHECK,
    NUM_STARTS,
    RitzEstimate,
    RitzPairs,
    draw_starts,
    estimate_largest,
)
from oblong.spectra.spectrum import FloatArray

if TYPE_CHECKING:
    import torch

    StackOperator = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found out about one member when it ended.

    Attributes:
        estimate: Its largest Ritz values.
        error: Bound on the relative error of the first one.
        places: Shape (n,), those of its basis vectors among the vectors of the stack.
    """

    estimate: RitzEstimate
    error: float
    places: list[int]


class StackedBasis:
    """For every member, the basis of `lanczos.KrylovBasis`, made by steps of NUM_STARTS products.

    All members have the same number of places for vectors. A direction that is exhausted leaves a zero vector in its
    place: its products and overlaps are zero, and so is whatever follows from it.

    Args:
        operator: Maps (b, p, k) to a new (b, p, k), each member by its own A.
        like: Shape (b, p, p), float64: sizes and device.
        max_steps: Steps at most.
    """

    def __init__(self, operator: StackOperator, like: torch.Tensor, max_steps: int) -> None:
        num_members, dimension = like.shape[0], like.shape[-1]
        self._operator = operator
        self._rounding = BREAKDOWN * float(np.finfo(np.float64).eps)
        self._vectors = like.new_empty((num_members, NUM_STARTS * (max_steps + 1), dimension))
        # Of each step's columns, the rows from the diagonal block down; the rest is zero or known by symmetry.
        self._band = like.new_zeros((num_members, max_steps, 2 * NUM_STARTS, NUM_STARTS))
        self.num_steps = 0
        starts = np.linalg.qr(draw_starts(dimension).T)[0].T
        self._vectors[:, :NUM_STARTS] = like.new_tensor(starts)

    def extend(self) -> None:
        """Multiply the newest vectors by A; what is new in the products become the next ones."""
        step, first = self.num_steps, NUM_STARTS * self.num_steps
        self.num_steps += 1
        products = self._operator(self._vectors[:, first : first + NUM_STARTS].mT)
        for column in range(NUM_STARTS):
            known = first + NUM_STARTS + column
            rest, overlaps = self._orthogonalise(products[:, :, column, None], known)
            length = rest.norm(dim=1, keepdim=True)
            scale = overlaps.norm(dim=1, keepdim=True)
            is_new = length > self._rounding * scale
            self._vectors[:, known] = (rest / length).where(is_new, 0.0)[:, :, 0]
            self._band[:, step, : NUM_STARTS + column, column] = overlaps[:, first:, 0]
            # NaN if the scale overflowed, for then nothing would ever be new.
            self._band[:, step, NUM_STARTS + column, column] = (length.where(is_new, 0.0) + 0.0 * scale)[:, 0, 0]

    def fetch(self) -> FloatArray:
        """The bands so far, shape (b, num_steps, 2 NUM_STARTS, NUM_STARTS): the one synchronisation of a check."""
        found: FloatArray = self._band[:, : self.num_steps].cpu().numpy()
        return found

    def combine(self, member: int, verdict: Verdict, num_pairs: int) -> torch.Tensor:
        """The first Ritz vectors of a member, shape (num_pairs, p); zero where it has fewer."""
        coordinates = np.zeros((num_pairs, verdict.places[-1] + 1))
        found = verdict.estimate.coordinates[:, :num_pairs].T
        coordinates[: found.shape[0], verdict.places] = found
        return self._vectors.new_tensor(coordinates) @ self._vectors[member, : coordinates.shape[1]]

    def _orthogonalise(self, vector: torch.Tensor, num_known: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The part of (b, p, 1) vectors outside the bases, and their overlaps (b, num_known, 1); twice, as there."""
        known = self._vectors[:, :num_known]
        overlaps = known @ vector
        rest = vector.baddbmm(known.mT, overlaps, alpha=-1.0)
        corrections = known @ rest
        return rest.baddbmm(known.mT, corrections, alpha=-1.0), overlaps + corrections


def compute_largest_stacked(
    operator: StackOperator,
    like: torch.Tensor,
    members: Sequence[int],
    *,
    pool: Executor,
    tolerance: float,
    max_steps: int,
    num_pairs: int = 1,
) -> dict[int, RitzPairs | None]:
    """The largest eigenvalues of every member of a stack of operators.

    Args:
        operator: Maps (b, p, k) to a new (b, p, k), each member by its own symmetric positive definite A.
        like: Shape (b, p, p), float64, p >= NUM_STARTS: sizes and device.
        members: Indices of those that are wanted; the others may hold anything, NaN included.
        pool: Judges several members at a time.
        tolerance: See `lanczos.compute_largest`.
        max_steps: Products per member at most; one more if it is odd.
        num_pairs: See `lanczos.compute_largest`.

    Returns:
        What `lanczos.compute_largest` returns, for each wanted member.
    """
    max_steps = -(-min(max_steps, like.shape[-1]) // NUM_STARTS)
    basis = StackedBasis(operator, like, max_steps)
    finished: dict[int, Verdict | None] = {}
    next_check = FIRST_CHECK
    while len(finished) < len(members):
        basis.extend()
        is_last = basis.num_steps == max_steps
        if is_last or NUM_STARTS * basis.num_steps >= next_check:
            bands = basis.fetch()
            waiting = [member for member in members if member not in finished]
            verdicts = zip(waiting, pool.map(judge, bands[waiting]), strict=True)
            finished |= {m: v for m, v in verdicts if is_last or v is None or v.error <= tolerance}
            next_check = int(next_check * CHECK_GROWTH) + 1
    found = dict(_collect(basis, finished, num_pairs, tolerance))
    return {member: found[member] for member in members}


def judge(band: FloatArray) -> Verdict | None:
    """What the band of one member, (steps, 2 NUM_STARTS, NUM_STARTS), says; None if a product overflowed."""
    if not np.isfinite(band).all():
        return None
    num_steps = band.shape[0]
    projection = np.zeros((NUM_STARTS * (num_steps + 1), NUM_STARTS * num_steps))
    for step, columns in enumerate(band):
        first = NUM_STARTS * step
        projection[first : first + 2 * NUM_STARTS, first : first + NUM_STARTS] = columns
    # The length of what was new; the starts always are.
    lengths = np.diagonal(projection, -NUM_STARTS)
    is_used = np.append(np.ones(NUM_STARTS, dtype=bool), lengths > 0.0)
    places = np.flatnonzero(is_used[: projection.shape[1]])
    estimate = estimate_largest(projection[is_used][:, places])
    return Verdict(estimate=estimate, error=estimate.error, places=places.tolist())


def _collect(
    basis: StackedBasis, finished: dict[int, Verdict | None], num_pairs: int, tolerance: float
) -> Iterator[tuple[int, RitzPairs | None]]:
    """Yield each member with its pairs; the vectors of all are fetched together."""
    import torch

    ended = {member: verdict for member, verdict in finished.items() if verdict is not None}
    yield from ((member, None) for member in finished.keys() - ended.keys())
    if not ended:
        return
    combined = [basis.combine(member, verdict, num_pairs) for member, verdict in ended.items()]
    vectors: FloatArray = torch.stack(combined).cpu().numpy()
    for (member, verdict), rows in zip(ended.items(), vectors, strict=True):
        values = verdict.estimate.values[:num_pairs]
        yield (
            member,
            RitzPairs(
                values=values,
                vectors=rows[: values.size].T,
                residuals=verdict.estimate.residuals[:num_pairs],
                error=verdict.error,
                converged=verdict.error <= tolerance,
            ),
        )
