"""`method` and `anchor` as every recipe takes them, so that they mean the same wherever they stand."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from oblong.methods.options import SELF_GENERATED, AnchorOptions, MethodOptions
from oblong.methods.registry import METHODS, parse_method


def _read_method(value: Any) -> Any:
    return None if value is None else parse_method(value)


def _accept_bare_source(value: Any) -> Any:
    return {"sources": value} if isinstance(value, (str, list)) else value


MethodField = Annotated[SerializeAsAny[MethodOptions] | None, BeforeValidator(_read_method)]
"""A method by name, or name and options; None for plain fine-tuning."""

AnchorField = Annotated[AnchorOptions | None, BeforeValidator(_accept_bare_source)]
"""Old data; a bare source or a list of them stands for the rest of the defaults."""


def takes_anchor(method: MethodOptions | None, anchor: AnchorOptions | None) -> bool:
    """Whether there is old data and a method that takes it."""
    return anchor is not None and method is not None and METHODS[method.name].uses_anchor


def explain_missing_anchor(method: MethodOptions | None, anchor: AnchorOptions | None) -> str | None:
    """Why a method cannot do without the old data that is not given; None if it can."""
    if method is None or anchor is not None or not METHODS[method.name].needs_anchor:
        return None
    return f"method {method.name} needs old data: give anchor, for example `anchor: {SELF_GENERATED}`"


def explain_unkept_modules(method: MethodOptions | None) -> str | None:
    """Why a method's tuned model cannot be written as a delta checkpoint; None if it can."""
    if method is None or not METHODS[method.name].adds_modules:
        return None
    return (
        f"method {method.name} adds modules to the model, which a delta checkpoint cannot hold: use it with "
        "oblong.methods.MethodTrainer"
    )
