"""Strided windows: how a long document is cut so that every token is predicted exactly once.

A document's tokens are x_0 ... x_{n-1}; x_0 is context only. A window predicts the targets x_a ... x_{b-1} from the
inputs x_s ... x_{b-2}, at most `window` of them. The first window predicts up to `window` targets, each further one
`stride` more, with as much context before them as the window holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oblong.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A piece of one document; indices are token positions in it.

    Attributes:
        document: index of the document.
        start: first input.
        first_target: first token to predict; later than `start`.
        end: one past the last token to predict; the inputs end one before it.
    """

    document: int
    start: int
    first_target: int
    end: int

    @property
    def num_inputs(self) -> int:
        """Tokens that the model reads."""
        return self.end - 1 - self.start

    @property
    def num_targets(self) -> int:
        """Tokens that are predicted."""
        return self.end - self.first_target

    @property
    def first_position(self) -> int:
        """The input whose output predicts the first target; the rest follow it to the last input."""
        return self.first_target - 1 - self.start


def check_window(window: int, stride: int) -> None:
    """Refuse what cannot be walked.

    Raises:
        DataError: `stride` is not between 1 and `window`.
    """
    if not 1 <= stride <= window:
        raise DataError(
            f"a stride of {stride} does not fit a window of {window} tokens: it must be between 1 and {window}"
        )


def cut_windows(document: int, num_tokens: int, *, window: int, stride: int) -> Iterator[Window]:
    """Cut one document.

    Args:
        document: its index.
        num_tokens: its tokens, the first of which is not predicted.
        window: most inputs at a time, tokens.
        stride: targets per window after the first, tokens.
    """
    first_target = 1
    while first_target < num_tokens:
        end = min(num_tokens, first_target + (window if first_target == 1 else stride))
        yield Window(document=document, start=max(0, end - 1 - window), first_target=first_target, end=end)
        first_target = end


def batch_windows(windows: Sequence[Window], batch_size: int) -> Iterator[Sequence[Window]]:
    """Group windows of like length, the longest first: little padding, and too little memory shows at once."""
    ordered = sorted(windows, key=lambda window: (-window.num_inputs, -window.num_targets, window.document, window.end))
    for place in range(0, len(ordered), batch_size):
        yield ordered[place : place + batch_size]
