"""What a running scan tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanProgress:
    """How far a scan has come: `done` of `total` units, the last of which was `detail`.

    `done_work` and `total_work` are estimates in floating-point operations, so that the time left can be told from
    them: an embedding counts for more than a norm. `message` is set when there is something to say.
    """

    done: int
    total: int
    done_work: float
    total_work: float
    detail: str = ""
    message: str | None = None


ProgressCallback = Callable[[ScanProgress], None]
