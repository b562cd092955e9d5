"""The Gram route (gram_route.py) for a whole stack: the heavy steps together, the decisions member by member."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, Final

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from oblong.spectra.device_lanczos import compute_largest_stacked
from oblong.spectra.device_member import DeviceFactor, DeviceGram, DeviceMatrix, StackedGram, compute_stacked_gram
from oblong.spectra.gram_route import MARGIN, MAX_LANCZOS_STEPS, NUM_REFINED, GramResult, Search, decide

if TYPE_CHECKING:
    import torch

    from oblong.spectra.device_stack import DeviceStack

NUM_THREADS: Final = 4
"""Threads that judge and refine members: their numpy steps are short, and the device can serve several."""


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
    matrices = [DeviceMatrix(stack, gram, member) for member in range(stack.num_members)]

    # One BLAS thread each, so that a result does not depend on how many members are judged beside it.
    with _find_blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(NUM_THREADS) as pool:
        searches = search_stack(gram, pool, tolerance=tolerance)

        def decide_member(member: int) -> GramResult | None:
            return decide(matrices[member], searches[member], full=full, tolerance=tolerance)

        results = dict(zip(searches, pool.map(decide_member, searches), strict=True))
    return [(matrix, results.get(member)) for member, matrix in enumerate(matrices)]


def search_stack(gram: StackedGram, pool: ThreadPoolExecutor, *, tolerance: float) -> dict[int, Search]:
    """Both ends of the spectrum of every member that has a factor."""
    members = [member for member, is_positive in enumerate(gram.is_positive) if is_positive]

    def multiply(blocks: torch.Tensor) -> torch.Tensor:
        return gram.values @ blocks

    search = partial(
        compute_largest_stacked,
        like=gram.values,
        members=members,
        pool=pool,
        tolerance=MARGIN * tolerance,
        max_steps=MAX_LANCZOS_STEPS,
    )
    tops, inverses = search(multiply), search(gram.factor.solve, num_pairs=NUM_REFINED)
    return {
        member: Search(
            gram=DeviceGram(gram, member), factor=DeviceFactor(gram, member), top=tops[member], inverse=inverses[member]
        )
        for member in members
    }


@cache
def _find_blas() -> ThreadpoolController:
    """Once: looking through the loaded libraries takes as long as a small stack."""
    return ThreadpoolController()
