"""Tuning: a Plan, a model and text become a Run and a delta checkpoint.

Recipes can be read without torch; what trains, verifies or merges is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from oblong.tuning.recipe import DataRecipe, TuneRecipe, build_recipe, read_recipe

if TYPE_CHECKING:
    from oblong.tuning.merge import merge_run
    from oblong.tuning.relearning import Relearning, probe_relearning
    from oblong.tuning.run import tune
    from oblong.tuning.verify import Verification, verify_run

__all__ = [
    "DataRecipe",
    "Relearning",
    "TuneRecipe",
    "Verification",
    "build_recipe",
    "merge_run",
    "probe_relearning",
    "read_recipe",
    "tune",
    "verify_run",
]

_HOME: Final = {
    "Relearning": "oblong.tuning.relearning",
    "Verification": "oblong.tuning.verify",
    "merge_run": "oblong.tuning.merge",
    "probe_relearning": "oblong.tuning.relearning",
    "tune": "oblong.tuning.run",
    "verify_run": "oblong.tuning.verify",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'oblong.tuning' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
