"""The Gram route (gram_route.py) for a whole stack: the heavy steps together, the decisions member by member."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, Final

import numpy as np
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from oblong.spectra.device_lanczos import KrylovResult, compute_largest_stacked
from oblong.spectra.device_member import DeviceFactor, DeviceMatrix, compute_stacked_gram
from oblong.spectra.gram_route import (
    GRAM_LIMIT,
    MAX_LANCZOS_STEPS,
    NUM_REFINED,
    GramResult,
    Lowest,
    Scale,
    allow_log_volume_error,
    compute_all,
    refine,
)
from oblong.spectra.rounding import combine

if TYPE_CHECKING:
    import torch

    from oblong.spectra.device_stack import DeviceStack

NUM_REFINERS: Final = 4
"""Threads that refine members: their numpy steps are short, and the device can serve several."""


def measure_stack(stack: DeviceStack, *, full: bool, tolerance: float) -> list[tuple[DeviceMatrix, GramResult | None]]:
    """Measure every member through its Gram matrix.

    Args:
        stack: q x p matrices, scaled, neither zero nor infinite.
        full: See `compute_spectrum`.
        tolerance: See `compute_spectrum`.

    Returns:
        Each member with its result, or with None where only a singular value decomposition can be trusted.
    """
    gram = compute_stacked_gram(stack, full=full)
    members = [member for member in range(stack.num_members) if gram.is_positive[member]]

    def multiply(vectors: torch.Tensor) -> torch.Tensor:
        return gram.values @ vectors

    search = partial(
        compute_largest_stacked,
        like=gram.values,
        members=members,
        tolerance=tolerance,
        max_steps=MAX_LANCZOS_STEPS,
    )
    tops, inverses = search(multiply), search(gram.factor.solve_vectors)
    matrices = [DeviceMatrix(stack, gram, member) for member in range(stack.num_members)]

    def decide(member: int) -> GramResult | None:
        return decide_member(matrices[member], tops[member], inverses[member], full=full, tolerance=tolerance)

    # One BLAS thread each, so that a result does not depend on how many members are refined beside it.
    with _find_blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(NUM_REFINERS) as pool:
        results = dict(zip(members, pool.map(decide, members), strict=True))
    return [(matrix, results.get(member)) for member, matrix in enumerate(matrices)]


@cache
def _find_blas() -> ThreadpoolController:
    """Once: looking through the loaded libraries takes as long as a small stack."""
    return ThreadpoolController()


def decide_member(
    matrix: DeviceMatrix, top: KrylovResult, inverse: KrylovResult, *, full: bool, tolerance: float
) -> GramResult | None:
    """What `gram_route.measure_by_gram` does after its two Lanczos iterations."""
    gram = matrix.compute_gram()
    factor = gram.factorise()
    if factor is None or not top.converged:
        return None
    scale = Scale(
        num_rows=matrix.num_rows,
        num_columns=matrix.num_columns,
        frobenius_norm=math.sqrt(gram.trace),
        sigma_max=math.sqrt(top.largest),
    )
    lowest = decide_lowest(matrix, factor, inverse, scale, tolerance=tolerance)
    if lowest is None:
        return None
    values = compute_all(gram, scale, lowest.values) if full else None
    if full and values is None:
        return None
    top_error = (tolerance + scale.gram_error / scale.sigma_max**2) / 2
    return GramResult(
        sigma_max=scale.sigma_max,
        sigma_min=float(lowest.values[0]),
        kappa_error=combine(top_error, lowest.relative_error),
        log_volume=lowest.log_volume,
        frobenius_norm=scale.frobenius_norm,
        participation_ratio=scale.frobenius_norm**4 / gram.sum_of_squares,
        singular_values=values,
    )


def decide_lowest(
    matrix: DeviceMatrix, factor: DeviceFactor, inverse: KrylovResult, scale: Scale, *, tolerance: float
) -> Lowest | None:
    """What `gram_route.find_lowest` does after its Lanczos iteration."""
    rounding = scale.gram_error * inverse.largest
    if rounding > GRAM_LIMIT:
        return None
    # tr(G^-1) <= p / s_min^2 in `estimate_log_volume_error`
    log_volume_error = rounding * math.sqrt(scale.num_columns) / 2
    is_precise = rounding <= tolerance and log_volume_error <= allow_log_volume_error(factor.log_volume)
    if inverse.converged and is_precise:
        return Lowest(
            values=1.0 / np.sqrt([inverse.largest]),
            relative_error=(tolerance + rounding) / 2,
            log_volume=factor.log_volume,
        )
    return refine(matrix, factor, inverse.extract(NUM_REFINED), scale, tolerance=tolerance)
