"""Time by the clock, and of this process alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Generic[Result]):
    """What a call took, and what came out.

    Attributes:
        seconds: by the clock.
        cpu_seconds: of this process, all threads together; other programs on the machine disturb it less.
        result: of the call.
    """

    seconds: float
    cpu_seconds: float
    result: Result


def measure(call: Callable[[], Result]) -> Measured[Result]:
    """Time one call."""
    started, cpu_started = time.perf_counter(), time.process_time()
    result = call()
    cpu_seconds = time.process_time() - cpu_started
    return Measured(seconds=time.perf_counter() - started, cpu_seconds=cpu_seconds, result=result)
