"""Which side of the wall between training and test a text is on: one rule for all sets, so none leaks into another.

The first words decide, not the whole text: prompts that differ in their last words only stay on one side.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

TRAIN: Final = "train"
TEST: Final = "test"
TEST_SHARE: Final = 0.4
OPENING_WORDS: Final = 4
WORD: Final = re.compile(r"[^\W_]+")


def compute_text_key(text: str) -> str:
    """The words of a text in small letters: two texts with one key are the same sentence."""
    return " ".join(WORD.findall(text.casefold()))


def choose_split(text: str) -> str:
    """`train` or `test`, by the SHA-256 of the first four words; some 40 % of the openings are `test`."""
    opening = " ".join(compute_text_key(text).split()[:OPENING_WORDS])
    number = int.from_bytes(hashlib.sha256(opening.encode()).digest()[:8], "big")
    return TEST if number < TEST_SHARE * 2**64 else TRAIN
