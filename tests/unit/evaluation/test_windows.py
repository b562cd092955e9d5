from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblong.errors import DataError
from oblong.evaluation.windows import batch_windows, check_window, cut_windows


def test_a_document_that_fits_is_one_window() -> None:
    (window,) = cut_windows(0, 6, window=5, stride=2)
    assert (window.start, window.first_target, window.end) == (0, 1, 6)
    assert (window.num_inputs, window.num_targets, window.first_position) == (5, 5, 0)


def test_a_long_document_walks_by_the_stride() -> None:
    cut = [(window.start, window.first_target, window.end) for window in cut_windows(0, 10, window=4, stride=2)]
    # Targets 1-4, 5-6, 7-8, 9; each window reads the 4 tokens before its last target.
    assert cut == [(0, 1, 5), (2, 5, 7), (4, 7, 9), (5, 9, 10)]


@given(st.integers(2, 300), st.integers(1, 64), st.data())
def test_every_token_but_the_first_is_predicted_once_with_the_promised_context(
    num_tokens: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window))
    pieces = list(cut_windows(3, num_tokens, window=window, stride=stride))
    predicted = Counter(place for piece in pieces for place in range(piece.first_target, piece.end))
    assert predicted == Counter(range(1, num_tokens))
    for piece in pieces:
        assert 1 <= piece.num_inputs <= window
        assert piece.first_position >= min(piece.first_target - 1, window - stride)
        assert piece.first_position + piece.num_targets == piece.num_inputs


@given(st.lists(st.integers(2, 40), min_size=1, max_size=20), st.integers(1, 7))
def test_batches_hold_every_window_once_and_the_longest_first(lengths: list[int], batch_size: int) -> None:
    windows = [
        piece for index, length in enumerate(lengths) for piece in cut_windows(index, length, window=8, stride=3)
    ]
    batches = list(batch_windows(windows, batch_size))
    flat = [window for batch in batches for window in batch]
    assert Counter(flat) == Counter(windows)
    assert all(len(batch) <= batch_size for batch in batches)
    assert [window.num_inputs for window in flat] == sorted((window.num_inputs for window in windows), reverse=True)


@pytest.mark.parametrize(("window", "stride"), [(8, 9), (8, 0), (0, 0), (8, -1)])
def test_a_stride_that_does_not_fit_is_refused(window: int, stride: int) -> None:
    with pytest.raises(DataError, match=f"a stride of {stride} does not fit a window of {window}"):
        check_window(window, stride)
