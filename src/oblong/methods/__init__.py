"""Methods against forgetting: how the chosen tensors are trained, one file each, behind one protocol.

A recipe names one (`method: {name: ewc, strength: 10}`); `MethodTrainer` takes one without a recipe. Options and the
registry are read without torch, the rest is imported when it is first used. See design/060-methods.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from oblong.methods.options import SELF_GENERATED, AnchorOptions, MethodOptions
from oblong.methods.registry import METHODS, MethodSpec, build_method, parse_method

if TYPE_CHECKING:
    from oblong.methods.anchor import AnchorData, build_anchor
    from oblong.methods.mixin import MethodTrainer, MethodTrainerMixin
    from oblong.methods.protocol import Method, Training

__all__ = [
    "METHODS",
    "SELF_GENERATED",
    "AnchorData",
    "AnchorOptions",
    "Method",
    "MethodOptions",
    "MethodSpec",
    "MethodTrainer",
    "MethodTrainerMixin",
    "Training",
    "build_anchor",
    "build_method",
    "parse_method",
]

_HOME: Final = {
    "AnchorData": "oblong.methods.anchor",
    "Method": "oblong.methods.protocol",
    "MethodTrainer": "oblong.methods.mixin",
    "MethodTrainerMixin": "oblong.methods.mixin",
    "Training": "oblong.methods.protocol",
    "build_anchor": "oblong.methods.anchor",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'oblong.methods' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
