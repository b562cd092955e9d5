"""The texts that ship with oblong (sources and licences: SOURCES.md beside this file)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from oblong.errors import DataError

BUNDLED_PREFIX: Final = "bundled:"
BUNDLED: Final[Mapping[str, str]] = {
    "german-train": "German LibreOffice help, for training",
    "german-test": "German LibreOffice help, held-out pages",
    "office-train": "English LibreOffice help, for training",
    "office-test": "English LibreOffice help, held-out pages",
    "english-prose": "passages of three novels by Jane Austen",
    "python-code": "excerpts of the Python standard library",
}


def locate_bundled(name: str) -> Path:
    """The JSON Lines file of a bundled text.

    Raises:
        DataError: no bundled text has this name; the message lists those that exist.
    """
    if name not in BUNDLED:
        known = ", ".join(f"{BUNDLED_PREFIX}{key}" for key in BUNDLED)
        raise DataError(f"no bundled text is called {name!r}; there are {known}")
    return Path(__file__).parent / f"{name.replace('-', '_')}.jsonl"
