"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oblong.scanning.store import OFF, PLACE_VARIABLE
from oblong.speech.features.shards import PLACE_VARIABLE as FEATURES_VARIABLE


@pytest.fixture(autouse=True, scope="session")
def no_cache() -> Iterator[None]:
    """Every test computes for itself, and leaves nothing in the user's cache; tests of the cache give it a place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLACE_VARIABLE, OFF)
        patch.setenv(FEATURES_VARIABLE, OFF)
        yield
