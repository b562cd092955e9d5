"""Text that runs in circles ("okay okay okay okay okay"), the typical failure of a speech model.

A loop is a pattern of `period` items that stands `count` times in a row. Words are looked at first; then characters,
for languages without spaces and for "hahahaha". What people really say twice or three times is below the thresholds,
which are judgements, not measurements: peers cut at 20 characters (Qwen3-ASR) or plead in the prompt (SLAM-LLM).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRule:
    """From when on a repetition is a loop: `min_count` times, and `min_items` items in all."""

    min_count: int
    min_items: int
    max_period: int

    def count_needed(self, period: int) -> int:
        """How often a pattern of this length must stand in a row."""
        return max(self.min_count, -(-self.min_items // period))


WORDS: Final = LoopRule(min_count=3, min_items=5, max_period=32)
CHARACTERS: Final = LoopRule(min_count=6, min_items=20, max_period=8)
# Of a tokenizer; stricter, since decoding is stopped by it and a number such as 7 7 7 7 must come through.
TOKENS: Final = LoopRule(min_count=4, min_items=16, max_period=32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Items `start` to `start + period * count` are one pattern, `count` times."""

    start: int
    period: int
    count: int

    @property
    def end_of_first(self) -> int:
        """Where the first of the repeated patterns ends; what follows says nothing new."""
        return self.start + self.period


def find_loop(items: Sequence[Hashable], rule: LoopRule) -> Loop | None:
    """The loop that starts first, with the shortest period where several start there; None if there is none."""
    loops = (_find_with_period(items, period, rule) for period in range(1, rule.max_period + 1))
    return min((loop for loop in loops if loop is not None), key=lambda loop: (loop.start, loop.period), default=None)


def ends_in_loop(items: Sequence[Hashable], rule: LoopRule) -> bool:
    """Whether the last items are a loop, so that going on is of no use."""
    for period in range(1, min(rule.max_period, len(items)) + 1):
        length = period * rule.count_needed(period)
        if length <= len(items) and items[-length:-period] == items[period - length :]:
            return True
    return False


def is_looping(text: str) -> bool:
    """Whether words, or characters, of a text stand in a loop."""
    folded = text.casefold()
    return find_loop(folded.split(), WORDS) is not None or find_loop("".join(folded.split()), CHARACTERS) is not None


def _find_with_period(items: Sequence[Hashable], period: int, rule: LoopRule) -> Loop | None:
    """The first run of items that equal the one `period` before them, if it is long enough."""
    needed = period * (rule.count_needed(period) - 1)
    run = 0
    for place in range(period, len(items) + 1):
        if place < len(items) and items[place] == items[place - period]:
            run += 1
            continue
        if run >= needed:
            return Loop(start=place - run - period, period=period, count=run // period + 1)
        run = 0
    return None
