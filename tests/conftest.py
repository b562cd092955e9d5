"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oblong.scanning.store import OFF, PLACE_VARIABLE


@pytest.fixture(autouse=True, scope="session")
def no_spectrum_cache() -> Iterator[None]:
    """Every test computes for itself, and leaves nothing in the user's cache; tests of the cache give it a place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLACE_VARIABLE, OFF)
        yield
