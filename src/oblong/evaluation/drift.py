"""How far weights moved from the base."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

from oblong.errors import PlanMismatchError
from oblong.records import Drift

CHUNK_ELEMENTS: Final = 1 << 22  # float64 copies of 32 MiB at a time, however large the tensor


def compute_drift(tensors: Iterable[tuple[str, Tensor, Tensor]]) -> Drift:
    """Compare changed tensors with their originals, one pair in memory at a time.

    fraction_moved = elements that differ / elements,  relative_change = ||tuned - base||_F / ||base||_F

    An element counts as moved when it is not equal to the original (NaN always does). Compare in the storage dtype: a
    step that rounds away there has not moved anything.

    Args:
        tensors: name, original and changed tensor, of equal shape.

    Returns:
        Totals over all pairs; of no pairs, zeros. `relative_change` is null where it is not a number, because the
        originals are all zero or a changed tensor is not finite.

    Raises:
        PlanMismatchError: a pair differs in shape.
    """
    num_tensors = num_elements = num_moved = 0
    squared_change = squared_base = 0.0
    for name, base, tuned in tensors:
        if base.shape != tuned.shape:
            raise PlanMismatchError(f"{name}: has shape {tuple(tuned.shape)}, the base {tuple(base.shape)}")
        num_tensors += 1
        num_elements += base.numel()
        for old, new in zip(_split(base), _split(tuned), strict=True):
            num_moved += int((old != new).sum())
            squared_change += float((new.double() - old.double()).square().sum())
            squared_base += float(old.double().square().sum())
    return Drift(
        num_changed_tensors=num_tensors,
        num_parameters_in_changed=num_elements,
        fraction_moved=num_moved / num_elements if num_elements else 0.0,
        relative_change=_compute_relative(squared_change, squared_base),
    )


def _split(tensor: Tensor) -> tuple[Tensor, ...]:
    return torch.split(tensor.detach().cpu().reshape(-1), CHUNK_ELEMENTS)


def _compute_relative(squared_change: float, squared_base: float) -> float | None:
    if squared_change == 0:
        return 0.0
    relative = math.sqrt(squared_change / squared_base) if squared_base > 0 else math.inf
    return relative if math.isfinite(relative) else None
