"""What may be imported without torch, and what the package promises to export."""

from __future__ import annotations

import subprocess
import sys

import pytest

import oblong

HEAVY = ("torch", "transformers", "datasets", "accelerate")


@pytest.mark.parametrize(
    "module",
    [
        "oblong",
        "oblong.records",
        "oblong.planning",
        "oblong.reporting",
        "oblong.spectra",
        "oblong.checkpoints",
        "oblong.scanning",
        "oblong.corpora.speech.building.build",
        "oblong.cli.main",
    ],
)
def test_module_imports_without_torch(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_every_public_name_exists_and_the_list_is_sorted() -> None:
    assert oblong.__all__ == sorted(oblong.__all__)
    for name in oblong.__all__:
        assert getattr(oblong, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = oblong.nothing
