from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oblong.evaluation.loops import TOKENS, WORDS, Loop, LoopRule, ends_in_loop, find_loop, is_looping


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ("okay okay okay okay okay", True),
        ("Okay. okay. OKAY. okay. okay.", True),
        ("and then he said and then he said and then he said", True),
        ("嗯" * 20, True),
        ("ha" * 12, True),
        ("no no no no", False),
        ("bye bye, see you, bye bye", False),
        ("one two three one two three", False),
        ("嗯嗯嗯", False),
        ("a perfectly ordinary sentence that goes on and on and on", False),
        ("", False),
    ],
)
def test_circles_are_told_from_emphasis(text: str, looping: bool) -> None:
    assert is_looping(text) is looping


def test_the_loop_is_located() -> None:
    # x, then "ab" four times and half a time more.
    loop = find_loop("xababababa", LoopRule(min_count=3, min_items=5, max_period=4))
    assert loop == Loop(start=1, period=2, count=4)
    assert loop.end_of_first == 3


def test_a_loop_of_tokens_needs_sixteen_of_them() -> None:
    assert find_loop([7] * 15, TOKENS) is None
    assert find_loop([7] * 16, TOKENS) == Loop(start=0, period=1, count=16)
    assert find_loop([1, 2, 3, 4, 5] * 3, TOKENS) is None
    assert find_loop([1, 2, 3, 4, 5] * 4, TOKENS) == Loop(start=0, period=5, count=4)


@given(st.lists(st.integers(0, 2), max_size=60))
def test_a_sequence_holds_a_loop_where_a_part_of_it_ends_in_one(items: list[int]) -> None:
    endings = [ends_in_loop(items[:length], WORDS) for length in range(len(items) + 1)]
    assert any(endings) == (find_loop(items, WORDS) is not None)


@given(st.lists(st.integers(0, 3), max_size=20), st.integers(1, 6), st.data())
def test_a_planted_loop_is_found_no_later_than_it_begins(before: list[int], period: int, data: st.DataObject) -> None:
    pattern = data.draw(st.lists(st.integers(0, 3), min_size=period, max_size=period))
    loop = find_loop(before + pattern * WORDS.count_needed(period), WORDS)
    assert loop is not None
    assert loop.start <= len(before)
